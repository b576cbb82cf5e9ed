"""Plans of a run: which engines run by which protocols, as asked one by one or by a submission, a small YAML file.

name: vgg-ilsvrc-2014
pooling: scores             # or posteriors; may be left out
members:
  - engine: d-256.onnx      # relative to this file
    protocol: dense
    scales: [224, 256, 288] # the model's own, if left out
"""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from infer.errors import UsageError
from infer.files import read_file
from infer.views import PROTOCOLS

from ..scores.table import FUSED
from .engines import KnownEngine

MAX_BYTES, MAX_DEPTH = 100_000, 4

Pooling = Literal["scores", "posteriors"]
POOLING_OUTPUT: dict[Pooling, str] = {"scores": "posterior", "posteriors": "posterior_positions"}
"""Mean of the class score map over positions, then softmax (the paper's words), or softmax first, then the mean."""
Scales = tuple[int, ...] | None
"""Shorter sides in pixels; None: the model's own."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol by name with the scales it runs at."""

    name: str
    scales: tuple[int, ...]


class SubmissionError(UsageError):
    """A file that says no submission; one line."""


class SubmissionMember(NamedTuple):
    """An engine with the protocol and scales it takes part by."""

    engine: Path
    protocol: str
    scales: Scales


class Submission(NamedTuple):
    """Members to be fused, under one name."""

    name: str
    members: tuple[SubmissionMember, ...]
    pooling: Pooling = "scores"


class PlannedEngine(NamedTuple):
    """An engine's file, and the protocols and scales that are asked of it, in order."""

    path: Path
    asked: list[tuple[str, Scales]]


class Fusion(NamedTuple):
    """Tables that are fused under a name: (engine, protocol) by their numbers."""

    name: str
    members: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The engines of a run with what is asked of each, and which tables are fused; None: those that can be."""

    engines: list[PlannedEngine]
    fusions: Sequence[Fusion] | None
    pooling: Pooling

    def fusions_of(self, engines: Sequence[KnownEngine]) -> Sequence[Fusion]:
        """The fusions of a run of these engines.

        Unless others are asked for, all engines are fused, protocol by protocol. Where several are of one model, in
        other precisions or on other runtimes, those of each runtime are: a model fused with itself tells nothing.
        """
        if self.fusions is not None:
            return self.fusions
        groups = {"": list(range(len(engines)))}
        if len({engine.spec.name for engine in engines}) < len(engines):
            groups = {}
            for number, engine in enumerate(engines):
                groups.setdefault(engine.runtime, []).append(number)
        protocols = range(len(self.engines[0].asked))
        return [Fusion(FUSED, [(i, j) for i in own]) for own in groups.values() if len(own) > 1 for j in protocols]


def plan_every_engine(engines: Sequence[Path], protocols: Sequence[str], scales: Scales, pooling: Pooling) -> RunPlan:
    """Plans all protocols for every engine."""
    planned = [PlannedEngine(path, [(name, scales) for name in protocols]) for path in engines]
    return RunPlan(planned, None, pooling)


def plan_submission(submission: Submission) -> RunPlan:
    """Plans every engine once, with all that it takes part by."""
    asked: dict[Path, list[tuple[str, Scales]]] = {}
    places = []
    for member in submission.members:
        own = asked.setdefault(member.engine, [])
        own.append((member.protocol, member.scales))
        places.append((list(asked).index(member.engine), len(own) - 1))
    planned = [PlannedEngine(path, own) for path, own in asked.items()]
    return RunPlan(planned, [Fusion(submission.name, places)], submission.pooling)


def read_submission(path: Path) -> Submission:
    """Reads a submission; whether the engines exist is not looked at. Raises SubmissionError."""
    values = _mapping(path, "the submission", _read_yaml(path), {"name", "members"}, {"pooling"})

    pooling = values.get("pooling", "scores")
    known = isinstance(pooling, str) and pooling in POOLING_OUTPUT
    _require(path, known, f"pooling {reprlib.repr(pooling)}", f"one of {', '.join(POOLING_OUTPUT)}")

    name = values["name"]
    plain = isinstance(name, str) and re.fullmatch(r"[\w.+-]{1,100}", name)
    _require(path, plain, f"name {reprlib.repr(name)}", "a word of letters, digits and .+-_")

    _require(path, isinstance(values["members"], list) and values["members"], "no members", "a list of two or more")
    members = tuple(_member(path, number, one) for number, one in enumerate(values["members"], 1))
    _require(path, len(members) > 1, "1 member", "two or more to fuse")
    twice = next((member for member, count in Counter(members).items() if count > 1), None)
    if twice is not None:
        raise SubmissionError(
            f"{path}: {twice.engine} takes part twice by {twice.protocol} at the same scales, expected each once"
        )
    return Submission(name, members, pooling)


def _read_yaml(path: Path) -> Any:
    """Reads a small YAML file, each key once. Raises SubmissionError."""
    try:
        text = read_file(path, MAX_BYTES, SubmissionError).decode()
        _check_tokens(path, text)

        for mapping in _mappings(yaml.compose(text, yaml.SafeLoader)):
            keys = Counter(str(key.value) for key, _ in mapping.value)
            twice = [key for key, count in keys.items() if count > 1]
            if twice:  # YAML would take the last without a word
                raise SubmissionError(f"{path}: says {reprlib.repr(twice[0])} twice in one place, expected each once")
        return yaml.safe_load(text)

    except SubmissionError:
        raise
    except OSError as error:
        raise SubmissionError(f"{path}: cannot be read ({error.strerror}), expected a submission (.yaml)") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as the date 2001-99-99
        raise SubmissionError(f"{path}: not YAML ({' '.join(str(error).split())[:150]})") from None


def _check_tokens(path: Path, text: str) -> None:
    """Raises SubmissionError for what makes a small file expensive: aliases, which multiply, and deep nesting."""
    depth = 0
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            raise SubmissionError(f"{path}: uses YAML aliases, expected everything written out")
        depth += isinstance(token, yaml.FlowSequenceStartToken | yaml.FlowMappingStartToken)
        depth -= isinstance(token, yaml.FlowSequenceEndToken | yaml.FlowMappingEndToken)
        if depth > MAX_DEPTH:
            raise SubmissionError(f"{path}: lists in lists in lists, expected a submission (.yaml)")


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """Walks through all mappings of a document."""
    if isinstance(node, yaml.MappingNode):
        yield node
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            yield from _mappings(child[1] if isinstance(child, tuple) else child)


def _member(path: Path, number: int, content: Any) -> SubmissionMember:
    values = _mapping(path, f"member {number}", content, {"engine", "protocol"}, {"scales"})
    engine, protocol, scales = values["engine"], values["protocol"], values.get("scales")
    where = f"member {number}: "

    named = isinstance(engine, str) and engine != "" and engine.isprintable()
    _require(path, named, f"{where}engine {reprlib.repr(engine)}", "the name of a file")
    known = isinstance(protocol, str) and protocol in PROTOCOLS
    _require(path, known, f"{where}protocol {reprlib.repr(protocol)}", f"one of {', '.join(PROTOCOLS)}")
    whole = isinstance(scales, list) and scales and all(type(q) is int and q > 0 for q in scales)
    got = f"{where}scales {reprlib.repr(scales)}"
    _require(path, scales is None or whole, got, "a list of pixels like [256, 384, 512]")
    return SubmissionMember(path.parent / engine, protocol, None if scales is None else tuple(scales))


def _mapping(path: Path, what: str, content: Any, needed: set[str], optional: set[str]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise SubmissionError(f"{path}: {what} is {type(content).__name__}, expected {', '.join(sorted(needed))}")
    unknown = sorted(map(str, content.keys() - needed - optional))
    missing = sorted(needed - content.keys())
    if unknown or missing:
        said = f"unknown {reprlib.repr(unknown[0])}" if unknown else f"no {missing[0]!r}"
        raise SubmissionError(f"{path}: {what} has {said}, expected {', '.join(sorted(needed | optional))}")
    return content


def _require(path: Path, true: object, got: str, expected: str) -> None:
    if not true:
        raise SubmissionError(f"{path}: {got}, expected {expected}")
