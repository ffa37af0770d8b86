"""Job nurseries: remote jobs that belong to a scope, like tasks to a nursery."""

from trepid.connection.nursery.job_nursery import JobNursery as JobNursery
from trepid.connection.nursery.job_nursery import JobNurseryStatistics as JobNurseryStatistics
from trepid.connection.nursery.opening import open_job_nursery as open_job_nursery
