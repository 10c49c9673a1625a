"""Hostile peers are cut off, cost little memory, and keep nobody else out. The attacks are those of the benchmark."""

import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from shutil import which

import pytest

pytest.importorskip("pynetdicom", reason='pynetdicom is missing: pip install "kneegrade[serve]"')
if which("echoscu") is None:
    pytest.skip("echoscu is missing: apt-get install dcmtk", allow_module_level=True)
if not Path("/proc/self/status").exists():
    pytest.skip("memory is measured with /proc, which this system does not have", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

import node_attack as attacks
from node_attack import Watch, running_node

MAX_GROWTH_MIB = 32


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A node that takes films of 2 MiB, so that too long ones are short."""
    with running_node(tmp_path_factory.mktemp("attacked"), object_mib=2) as running:
        yield running


def check(node, attack):
    """What the attack says, after checks that hold for every attack."""
    with Watch(node) as watch:
        result = attack(node)
    assert watch.growth_mib <= MAX_GROWTH_MIB
    assert (watch.failures, watch.echoes > 0) == (0, True)
    assert "NOT" not in result
    return result


CUT_OFF = (
    attacks.long_request, attacks.longest_request, attacks.long_data, attacks.endless_command, attacks.endless_data,
    attacks.endless_find, attacks.data_after_a_film_in_one_pdu, attacks.endless_film, attacks.messages_without_waiting,
    attacks.films_without_waiting, attacks.event_reports,
)  # fmt: skip


@pytest.mark.parametrize("attack", CUT_OFF, ids=lambda attack: attack.__name__)
def test_whoever_sends_too_much_is_cut_off(node, attack):
    assert "cut off after" in check(node, attack)


@pytest.mark.parametrize(
    ("attack", "result"),
    [
        (attacks.garbage, "60 of 60 connections ended"),
        (attacks.many_contexts, "20 of 20 requests"),
        (partial(attacks.idle_connections, number=80, seconds=0.5), "80 connections"),
        (partial(attacks.half_headers, number=40, seconds=1.0), "40 connections"),
        (partial(attacks.idle_associations, number=30, seconds=1.5), "20 granted, 10 rejected"),
        (partial(attacks.many_associations, seconds=1.5), "associations"),
    ],
    ids=["garbage", "many_contexts", "idle_connections", "half_headers", "idle_associations", "many_associations"],
)
def test_others_are_still_served(node, attack, result):
    assert result in check(node, attack)


def test_an_unused_association_gives_way_to_a_new_one(node):
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(attacks.raw_association(node.port))
        with pytest.raises(ConnectionError):
            stack.enter_context(attacks.raw_association(node.port))
        time.sleep(1.2)
        stack.enter_context(attacks.raw_association(node.port))


def test_hostile_uids_leave_no_file_outside_the_spool(node):
    folder = node.spool.parent
    outside = {path for path in folder.rglob("*") if not path.is_relative_to(node.spool)}
    result = check(node, partial(attacks.hostile_uids, number=60))
    assert {path for path in folder.rglob("*") if not path.is_relative_to(node.spool)} == outside
    assert all(len(path.stem) == 40 for path in node.files("films"))
    assert not result.startswith("60 stored")


@pytest.mark.slow
def test_every_attack_at_its_full_size(tmp_path):
    with running_node(tmp_path) as node:
        for attack in attacks.ATTACKS:
            check(node, attack)
        assert node.files("tmp") == []
        assert node.stop() == 0


@pytest.mark.slow
def test_no_acknowledged_film_is_lost_in_20_kills(tmp_path):
    assert attacks.run_kills(tmp_path, trials=20, associations=20) == 0


@pytest.mark.slow
def test_memory_does_not_grow_in_two_minutes(tmp_path):
    assert attacks.run_soak(tmp_path, minutes=2.0) < 1.0
