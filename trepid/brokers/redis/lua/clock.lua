-- The time.
return format('%.17g', now)
