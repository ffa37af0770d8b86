"""Sphinx settings. The build is strict (``-W -n``) and needs no network."""

import builtins
import importlib.metadata
import re
import sys
from pathlib import Path

import trepid

sys.path.insert(0, str(Path(__file__).resolve().parent))

import draw_lifecycle

project = "Trepid"
author = "The Trepid developers"
project_copyright = "The Trepid developers"
release = importlib.metadata.version("trepid")
version = ".".join(release.split(".")[:2])

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_*"]

html_theme = "furo"
html_title = f"Trepid {release}"
html_copy_source = False
pygments_style = "default"
pygments_dark_style = "github-dark"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
# `trepid.Job` reads better in a signature than the room that it lives in.
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# ---------------------------------------------------------------------------------------- names that lead nowhere
# Every name of Trepid must lead to its description. Names of others would need their inventories from the network; they
# are shown without a link. What is neither (a slip of the pen, mostly) stays an error.
dependencies = {"trio", "outcome", "attr", "attrs", "msgspec", "typing_extensions", "click", "pytest"}
others = dependencies | sys.stdlib_module_names
nitpick_ignore_regex = [
    (r"py:.*", rf"({'|'.join(map(re.escape, sorted(others)))})(\..+)?"),
    (r"py:.*", "|".join(name for name in sorted(vars(builtins)) if name.isidentifier())),
    # Type variables have no page of their own.
    (r"py:(class|obj)", r"(trepid\.([a-z_]+\.)*)?[PRTUW](_co)?(\.args|\.kwargs)?"),
    # How a connection waits, and what a handle follows, is said where it is opened.
    (r"py:class", r"(trepid\.connection\.patience\.)?Patience|(trepid\.connection\.following\.)?Step"),
    # Parts of a connection and of a job nursery, which nobody makes.
    (r"py:class", r"trepid\.connection\.(publishing\.Publisher|nursery\.(outbox\.Outbox|brood\.Brood))"),
    # Types in the text of a docstring, which Sphinx cuts in two at a comma.
    (r"py:class", r".*\[.*"),
]


def link_to_the_public_name(app, env, node, contnode):
    """Lead a name as annotations know it (`trepid.values.job.Job`, or `Job`) to its description as `trepid.Job`."""
    path = node.get("reftarget", "").split(".")
    if node.get("refdomain") != "py" or not (path[0] == "trepid" or path[0] in vars(trepid)):
        return None
    for length in (1, 2):
        public = ".".join(["trepid", *path[-length:]])
        found = env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, contnode)
        if found is not None:
            return found
    return None


plain = {}


def set_attribute_aside(app, what, name, obj, options, lines):
    """Keep the text of an attribute from Napoleon, which reads "How many: this and that" as a type and a text."""
    plain[what, name] = list(lines)


def bring_attribute_back(app, what, name, obj, options, lines):
    """Undo what Napoleon (at priority 500) made of it."""
    text = plain.pop((what, name))
    if what in {"attribute", "data", "property"}:
        lines[:] = text


# What `open_connection`, `enqueue` and `nursery.start` make has no constructor that anybody should read about.
LIVE = {"Connection", "JobHandle", "Messages", "Watch", "RunningWorker", "Session", "Context", "Broker"}


def tidy_signature(app, what, name, obj, options, signature, returns):
    """Hide the constructors of live things, and the defaults that are no Python."""
    if what == "class" and name.rpartition(".")[2] in LIVE:
        return "", None
    if not signature:
        return None
    tidy = re.sub(r"<function \w+>", "...", signature).replace("NOTHING", "{}").replace("~", "")
    return tidy, returns


def setup(app):
    draw_lifecycle.draw()
    app.connect("autodoc-process-signature", tidy_signature)
    app.connect("missing-reference", link_to_the_public_name)
    app.connect("autodoc-process-docstring", set_attribute_aside, priority=400)
    app.connect("autodoc-process-docstring", bring_attribute_back, priority=600)
