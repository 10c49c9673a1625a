"""mkdocs hook: fills in `reference/inputs.md`, what kneegrade reads and refuses and in which words, from the program.

The codes and messages are found in the syntax tree of the source. A code that this module cannot resolve is an error,
so that the page cannot lack one.
"""

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import typer
from markers import filled

import kneegrade
from kneegrade import errors
from kneegrade.coherence import RULES
from kneegrade.commands import app
from kneegrade.imaging.decoding_worker import OTHER_FORMATS
from kneegrade.imaging.dicom import dicom_codecs, dicom_header, dicom_spacing
from kneegrade.imaging.dicom.transfer_syntaxes import decoder_of, known_transfer_syntaxes
from kneegrade.imaging.limits import Limits
from kneegrade.imaging.plain_image_kinds import JPEG_KINDS
from kneegrade.imaging.plain_images import FORMATS

SOURCE = Path(kneegrade.__file__).parent
GROUPS = {
    "Reading a file": ("imaging",),
    "Finding knees": ("anatomy", "grader"),
    "Grades and quality control": ("uncertainty", "coherence", "results", "reporting"),
}
RESOLVED = {  # codes that are not literals: (module, expression) → code → message
    ("imaging.dicom.dicom_spacing", "code"): {
        code: f"{{keyword}} in the file {problem}; it is not used."
        for code, problem in dicom_spacing.SPACING_PROBLEMS.items()
    },
    ("coherence.rules", "rule.code"): {rule.code: rule.message for rule in RULES},
}
LISTED_ELSEWHERE = {  # codes of findings made elsewhere
    ("imaging.radiograph", "code"),
    ("evaluation.audit", "code"),
    ("server.reading.reading_film", "one['code']"),
    ("server.reading.signature", "one['code']"),
}

Locals = dict[str, ast.expr]  # names assigned in a function, with the last value of each


@dataclass(frozen=True, order=True)
class Code:
    """A code, its kind ("finding" or the name of the exception), its message and the module that it comes from."""

    code: str
    kind: str
    message: str
    module: str


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its generated parts in place of the markers."""
    return filled(markdown, PARTS, "inputs ")


def all_codes() -> list[Code]:
    """Every code with every message that the source can emit, sorted.

    Raises:
        ValueError: a code is neither a literal, a constant of its module, nor listed in this file.
    """
    found: set[Code] = set()
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for call, names in _calls(ast.parse(path.read_text(encoding="utf-8")), {}):
            found.update(_codes_of(call, names, module))
    return sorted(found)


def _calls(node: ast.AST, names: Locals) -> Iterator[tuple[ast.Call, Locals]]:
    """All calls below a node, each with the names assigned in the function around it."""
    if isinstance(node, ast.FunctionDef):
        assigned = [each for each in ast.walk(node) if isinstance(each, ast.Assign)]
        names = {each.targets[0].id: each.value for each in assigned if isinstance(each.targets[0], ast.Name)}
    if isinstance(node, ast.Call):
        yield node, names
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, names)


def _codes_of(call: ast.Call, names: Locals, module: str) -> Iterator[Code]:
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name == "Finding" and len(call.args) == 2:
        code, message = call.args
    elif isinstance(error := getattr(errors, name, None), type) and issubclass(error, errors.KneeGradeError):
        stated = [word.value for word in call.keywords if word.arg == "code"] or call.args[1:2]
        if not stated or not call.args:
            return  # the default code of the class
        code, message = stated[0], call.args[0]
    else:
        return
    message = names.get(message.id, message) if isinstance(message, ast.Name) else message
    expression = ast.unparse(code)
    if value := _constant(code, module):
        yield Code(value, "finding" if name == "Finding" else name, _text(message, module), module)
    elif (module, expression) in RESOLVED:
        yield from (Code(one, "finding", text, module) for one, text in RESOLVED[module, expression].items())
    elif not expression.endswith(".code") and (module, expression) not in LISTED_ELSEWHERE:
        raise ValueError(f"docs_hooks/inputs.py does not know the codes of {expression!r} in {module}.")


def _constant(node: ast.expr, module: str) -> str | None:
    """The value of an expression of literals and constants of its module, or None."""
    names = vars(importlib.import_module(f"kneegrade.{module}" if module else "kneegrade"))
    try:
        value = eval(compile(ast.Expression(node), module, "eval"), dict(names))
    except (NameError, AttributeError, TypeError, KeyError):
        return None
    return value if isinstance(value, str) else None


def _text(node: ast.expr, module: str) -> str:
    """The message, with what differs from case to case in braces."""
    if (value := _constant(node, module)) is not None:
        return value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else _placeholder(part, module) for part in node.values
        )
    if isinstance(node, ast.BinOp):
        return _text(node.left, module) + _text(node.right, module)
    return "{" + ast.unparse(node) + "}"


def _placeholder(part: ast.expr, module: str) -> str:
    value = part.value if isinstance(part, ast.FormattedValue) else part
    if (constant := _constant(value, module)) is not None:
        return constant
    shown = value.args[0] if isinstance(value, ast.Call) and value.args else value
    return "{" + ast.unparse(shown).rpartition(".")[2].replace("_", " ").strip() + "}"


def codes() -> str:
    """Tables of all codes, by stage, as Markdown."""
    everything, lines = all_codes(), []
    rest = {code.module.partition(".")[0] for code in everything}.difference(*GROUPS.values())
    for title, rooms in {**GROUPS, "Files, options and other work": tuple(rest)}.items():
        rows = [code for code in everything if code.module.partition(".")[0] in rooms]
        lines += [f"### {title}", "", "| code | kind | message | from |", "|---|---|---|---|"]
        lines += [f"| `{c.code}` | {c.kind} | {_cell(c.message)} | {c.module} |" for c in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("{", "‹").replace("}", "›")


def default_codes() -> str:
    """A table of the exceptions and the codes that they have where the message states no other."""
    rows = ["| exception | code | meaning |", "|---|---|---|"]
    for error in (errors.KneeGradeError, *errors.KneeGradeError.__subclasses__()):
        meaning = (error.__doc__ or "").splitlines()[0]
        rows.append(f"| `{error.__name__}` | `{error.default_code}` | {_cell(meaning)} |")
    return "\n".join(rows)


def transfer_syntaxes() -> str:
    """A table of all transfer syntaxes of the standard, with the package that decodes each, or "refused"."""
    rows, refused = ["| transfer syntax | UID | decoded by |", "|---|---|---|"], []
    for one in known_transfer_syntaxes():
        decoder = decoder_of(one)
        if decoder:
            rows.append(f"| {one.name} | {one} | {decoder} |")
        else:
            refused.append(one.name)
    return "\n".join([*rows, "", f"Refused (`transfer_syntax`): private transfer syntaxes; {'; '.join(refused)}."])


def attributes() -> str:
    """Tables of the values of DICOM attributes that are read, accepted with a warning, and refused."""
    words: dict[str, list[str]] = {}
    for word, side in dicom_header.SIDES.items():
        words.setdefault({"R": "right", "L": "left"}.get(side, "both"), []).append(f"`{word}`")
    low, high = dicom_spacing.PLAUSIBLE_SPACING_MM
    rows = [
        ("Modality", f"{_listed(dicom_header.MODALITIES)} or empty", f"{_listed(dicom_header.UNUSUAL_MODALITIES)}, or "
         "several values: `modality_unusual`", "every other: `modality`"),
        ("SOPClassUID", "every class; the modality decides", "", "no pixel data: `not_an_image`"),
        ("PhotometricInterpretation", _listed(dicom_codecs.PHOTOMETRIC_INTERPRETATIONS), "missing: "
         "`attributes_missing`", "every other: `pixel_format`"),
        ("SamplesPerPixel", "1, 3", "missing: `attributes_missing`", "every other: `pixel_format`"),
        ("BitsAllocated", ", ".join(map(str, dicom_codecs.BITS_ALLOCATED)), "missing and known from the length: "
         "`attributes_missing`", "every other: `pixel_format`"),
        ("NumberOfFrames", "missing, empty, 0, 1", "", "more: `multi_frame`"),
        ("PixelSpacing, then ImagerPixelSpacing", f"two equal numbers from {low:g} to {high:g} mm",
         f"{_listed(tuple(dicom_spacing.SPACING_PROBLEMS))}: the next attribute is used, or none", ""),
        ("PixelAspectRatio", "without a spacing: the stretch to remove", "`aspect_ratio`", ""),
        ("EstimatedRadiographicMagnificationFactor", "named in `magnification_uncorrected`; lengths are not divided by "
         "it", "", ""),
        ("ViewPosition, ViewCodeSequence", "every view", f"{_listed(dicom_header.OTHER_VIEWS)}: `view_declared`", ""),
        ("BodyPartExamined", "every part", f"{_listed(dicom_header.OTHER_BODY_PARTS)}: `body_part`", ""),
        ("ImageLaterality, then Laterality", "; ".join(f"{side}: {', '.join(texts)}" for side, texts in words.items()),
         "a word that is not understood: `laterality_unclear`", ""),
        ("FrameLaterality, then AnatomicRegionModifierSequence", "the same words; the codes "
         + _listed(dicom_header.SIDE_CODES), "", ""),
    ]  # fmt: skip
    lines = ["| attribute | read | read with a warning | refused |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _listed(values: Any) -> str:
    return ", ".join(f"`{value}`" for value in (values if isinstance(values, tuple) else sorted(values)) if value)


def plain_formats() -> str:
    """A list of the formats that are read and of those that are named in the refusal."""
    kinds = [*OTHER_FORMATS.values(), *JPEG_KINDS.values()]
    return f"Read: {', '.join(FORMATS)}. Named and refused (`format`): {', '.join(kinds)}."


def limits() -> str:
    """A table of the limits."""
    described = dict(
        line.strip().split(": ", 1) for line in (Limits.__doc__ or "").splitlines() if line.startswith("    " * 2)
        and ": " in line
    )  # fmt: skip
    defaults, types = Limits(), get_type_hints(Limits)
    rows = [
        f"| `{item.name}` | {getattr(defaults, item.name):{',' if types[item.name] is int else 'g'}} | "
        f"{_cell(described[item.name])} |"
        for item in fields(Limits)
    ]
    return "\n".join(["| limit | default | meaning |", "|---|---|---|", *rows])


def exit_codes() -> str:
    """A table of the commands that describe their exit codes."""
    rows = ["| command | exit codes |", "|---|---|"]
    for name, command in sorted(typer.main.get_command(app).commands.items()):  # type: ignore[attr-defined]
        text = " ".join((command.help or "").split())
        if "Exit code" in text:
            rows.append(f"| `{name}` | {_cell(text[text.index('Exit code') :])} |")
    return "\n".join(rows)


PARTS = {
    "transfer syntaxes": transfer_syntaxes,
    "attributes": attributes,
    "plain formats": plain_formats,
    "limits": limits,
    "codes": codes,
    "default codes": default_codes,
    "exit codes": exit_codes,
}
