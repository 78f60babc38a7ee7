"""The public names: where they are listed, how they are called, and links to them."""

import ast
import dataclasses
import importlib
import inspect
import textwrap
import typing
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

import jaxflow

ROOT = Path(jaxflow.__file__).parent
SPACES = ("networks", "losses", "dynamics", "observables", "committee")


class Public(SphinxDirective):
    """All public names of a namespace, in their order: `.. public:: networks`.

    Those that it defines, or imports for others to have (`X as X`). Where one is at the top
    level too, it is described there.
    """

    required_arguments = 1

    def run(self):
        """Document each by its docstring."""
        [module] = self.arguments
        entries = [_entry(f"jaxflow.{module}", name) for name in _exported(module)]
        return self.parse_text_to_nodes("\n\n".join(entries))


def _exported(module):
    place = ROOT.joinpath(*module.split("."))
    paths = place / "__init__.pyi", place / "__init__.py", place.with_suffix(".py")
    for node in ast.parse(next(p for p in paths if p.exists()).read_text()).body:
        if isinstance(node, ast.ImportFrom):
            yield from (a.name for a in node.names if a.name == a.asname)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from [] if node.name.startswith("_") else [node.name]


def _entry(module, name):
    thing = getattr(importlib.import_module(module), name)
    home = "jaxflow" if getattr(jaxflow, name, None) is thing else module
    what = "class" if inspect.isclass(thing) else "function"
    if not callable(thing) or typing.get_origin(thing):
        return ""
    members = "\n   :members:" if what == "class" else ""
    return f".. currentmodule:: {home}\n\n.. auto{what}:: {name}{members}"


def signature(app, what, name, obj, options, arguments, returned):
    """Arguments as the source has them, not what their types become when it runs."""
    if what == "class":
        return _of_class(obj), ""
    if what not in ("function", "method"):
        return None
    node = _source(obj)
    return _arguments(node.args), node.returns and ast.unparse(_annotation(node.returns))


def _of_class(cls):
    """What makes one; nothing for what is only ever returned."""
    fields = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("jaxflow"):
            body = _source(base).body
            fields |= {n.target.id: n for n in body if isinstance(n, ast.AnnAssign)}
            for node in body:
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    return _arguments(node.args)
    if not dataclasses.is_dataclass(cls) or "Attributes:" in cls.__doc__:
        return ""
    chosen = [fields[field.name] for field in dataclasses.fields(cls)]
    return _arguments(
        ast.arguments(
            posonlyargs=[],
            args=[ast.arg(field.target.id, field.annotation) for field in chosen],
            defaults=[d for field in chosen if (d := _default(field.value))],
            kwonlyargs=[],
            kw_defaults=[],
        )
    )


def _default(value):
    """Also where it is the `default` of an `equinox.field`."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "eqx.field":
        return next((word.value for word in value.keywords if word.arg == "default"), None)
    return value


def _source(thing):
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(thing)))).body[0]


def _arguments(arguments):
    arguments.args = [a for a in arguments.args if a.arg != "self"]
    for argument in [*arguments.args, *arguments.kwonlyargs]:
        if argument.annotation:
            argument.annotation = _annotation(argument.annotation)
    return f"({ast.unparse(arguments)})"


def _annotation(node):
    """Without quotes around a name, and the blank that one axis begins with."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return ast.parse(node.value, mode="eval").body
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            part.value = part.value.strip()
    return node


def skip(app, what, name, obj, skip, options):
    """Leave out fields, of which the docstring of their class has told."""
    if what != "class" or skip:
        return None
    method = isinstance(obj, property | classmethod) or "." in getattr(
        obj, "__qualname__", ""
    )
    return None if method and not inspect.isclass(obj) else True


def name_types(app, doctree):
    """Arrays are called so in the types of properties too; types are not guessed."""
    for text in list(doctree.findall(nodes.Text)):
        if text.startswith("jaxlib._jax."):
            text.parent.replace(text, nodes.Text(text.removeprefix("jaxlib._jax.")))
    for reference in doctree.findall(addnodes.pending_xref):
        # Sphinx takes any name that ends so where this is there, even if it is false.
        if not reference.get("refspecific"):
            reference.attributes.pop("refspecific", None)


def link(app, doctree, docname):
    """Make links of public names in code, on all pages."""
    module = app.env.metadata[docname].get("module")
    for literal in list(doctree.findall(nodes.literal)):
        described, arguments = _surroundings(literal)
        name = literal.astext().removesuffix("()")
        if name in arguments or isinstance(literal.parent, nodes.reference):
            continue
        if name.startswith("jf."):
            targets = ["jaxflow" + name.removeprefix("jf")]
        else:
            targets = [name]
            home = described or module
            while home:
                targets.append(f"{home}.{name}")
                home = home.rpartition(".")[0]
            targets += [f"jaxflow.{space}.{name}" for space in SPACES]
        linked = _reference(app, docname, targets, literal.deepcopy(), described)
        if linked:
            literal.replace_self(linked)


def resolve(app, env, node, contnode):
    """Link types in signatures, which name what is public without its home."""
    if node.get("refdomain") != "py":
        return None
    homes = ("", *(f"{name}." for name in SPACES))
    targets = [f"jaxflow.{home}{node['reftarget']}" for home in homes]
    return _reference(app, node["refdoc"], targets, contnode)


def _reference(app, docname, targets, content, but=None):
    known = app.env.domains.python_domain.objects
    for target in targets:
        if target in known and target != but and target != "jaxflow":
            entry = known[target]
            return make_refnode(
                app.builder, docname, entry.docname, entry.node_id, content, target
            )
    return None


def _surroundings(node):
    """What the docstring around describes, and the names of its arguments."""
    while node and not isinstance(node, addnodes.desc):
        node = node.parent
    if not node:
        return None, set()
    parameters = node[0].findall(addnodes.desc_parameter)
    return node[0]["ids"][0], {p.astext().split(":")[0].split("=")[0] for p in parameters}


def setup(app):
    """Register all of it."""
    app.add_directive("public", Public)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip)
    app.connect("doctree-read", name_types)
    app.connect("doctree-resolved", link)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
