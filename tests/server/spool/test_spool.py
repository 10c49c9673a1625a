"""The spool: nothing that was accepted is lost, nothing is done twice, and every state is shown as it is."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from kneegrade.errors import UsageError
from kneegrade.server.spool.film_spool import Spool, SpoolError, SpoolFullError
from kneegrade.server.spool.spool_files import remove_all
from kneegrade.server.spool.spool_schema import MAX_INTERRUPTIONS

SOURCE = str(Path(__file__).parents[3] / "src")


class Clock:
    now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def spool(tmp_path, clock):
    spool = Spool(tmp_path / "spool", min_free_bytes=0, clock=clock)
    yield spool
    spool.close()


def put(spool, content=b"film", uid="1.2.3", kind="dicom", sender="ARCHIVE"):
    stream, path = spool.temporary_file()
    with stream:
        stream.write(content)
    return spool.accept(path, kind=kind, sop_instance_uid=uid, sender=sender)


def grade(spool, deliveries=None):
    film = spool.claim()
    with spool.writing_results(film.key) as folder:
        (folder / "report.json").write_text("{}")
    spool.finish(film.key, deliveries=deliveries or {})
    return film.key


def reopened(spool):
    return Spool(spool.directory, min_free_bytes=0, clock=spool._clock)


class TestAccept:
    def test_film_is_a_file_and_a_row(self, spool, clock):
        accepted = put(spool)
        row = spool.film(accepted.key)
        assert accepted.is_new
        assert (row.state, row.sender, row.received, row.kind) == ("received", "ARCHIVE", clock.now, "dicom")
        assert row.path == spool.directory / "films" / f"{accepted.key}.dcm"
        assert row.path.read_bytes() == b"film"

    def test_same_bytes_again_are_nothing_new(self, spool):
        first, second = put(spool), put(spool)
        assert (second.key, second.is_new) == (first.key, False)
        assert spool.counts()["films"]["received"] == 1
        assert list((spool.directory / "tmp").iterdir()) == []

    @pytest.mark.parametrize(("content", "uid"), [(b"other", "1.2.3"), (b"film", "1.2.4"), (b"film", None)])
    def test_other_bytes_or_another_instance_are_another_film(self, spool, content, uid):
        assert put(spool, content, uid).key != put(spool).key

    def test_only_the_owner_can_read(self, spool):
        put(spool)
        grade(spool)
        for path in [spool.directory, *spool.directory.rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path

    @pytest.mark.parametrize(
        "uid", ["../../../etc/passwd", "/etc/passwd", "a\0b", "1" * 5000, "\udcff", "-rf", "C:\\x"]
    )
    def test_hostile_uids_are_no_paths(self, spool, uid):
        accepted = put(spool, uid=uid, sender="../\n\x1b[31m" + "x" * 500)
        row = spool.film(accepted.key)
        assert row.path.parent == spool.directory / "films"
        assert len(row.sop_instance_uid) <= 64
        assert row.sender.isprintable()
        assert len(row.sender) <= 300

    def test_shown_row_does_not_contain_the_uid(self, spool):
        assert "1.2.840.99" not in repr(spool.film(put(spool, uid="1.2.840.99").key))

    def test_film_that_was_removed_by_hand_is_accepted_again(self, spool):
        key = put(spool).key
        spool.film(key).path.unlink()
        assert put(spool).is_new
        assert spool.film(key).path.exists()


class TestFullDisk:
    def test_refused_with_nothing_left_and_accepted_later(self, tmp_path):
        spool = Spool(tmp_path, min_free_bytes=1 << 60)
        assert spool.is_full()
        with pytest.raises(SpoolFullError):
            put(spool)
        assert [path.name for path in tmp_path.rglob("*") if path.is_file() and "sqlite" not in path.name] == []
        spool._min_free_bytes = 0
        assert put(spool).is_new
        spool.close()

    def test_film_that_is_there_already_is_a_success(self, spool):
        key = put(spool).key
        spool._min_free_bytes = 1 << 60
        assert put(spool).key == key

    @pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a small disk needs root")
    def test_a_disk_that_is_full_to_the_last_byte(self, small_disk):
        spool = Spool(small_disk / "spool", min_free_bytes=0)
        accepted, refused = [], 0
        for number in range(200):
            try:
                accepted.append(put(spool, number.to_bytes(4, "big") * 16384).key)
            except (SpoolFullError, OSError):  # writing the temporary file fails, too
                refused += 1
                for path in (spool.directory / "tmp").iterdir():
                    path.unlink()
        assert refused
        assert spool.counts()["films"]["received"] == len(accepted) == len(list((spool.directory / "films").iterdir()))
        spool.purge(older_than_seconds=-1, force=True)
        assert put(spool).is_new
        spool.close()


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class TestGrading:
    def test_each_film_is_claimed_once_the_first_received_first(self, spool, clock):
        keys = []
        for number in range(3):
            clock.now += 1
            keys.append(put(spool, uid=str(number)).key)
        other = reopened(spool)
        assert [one.claim().key for one in (spool, other, spool)] == keys
        assert spool.claim() is other.claim() is None
        other.close()

    def test_results_and_deliveries_appear_together(self, spool):
        put(spool)
        key = grade(spool, {"archive": ["sr.dcm", "sc.dcm"], "web": ["sr.dcm"]})
        assert spool.film(key).state == "graded"
        assert [(d.destination, d.object, d.path) for d in spool.due_deliveries("archive")] == [
            ("archive", name, spool.results(key) / name) for name in ("sr.dcm", "sc.dcm")
        ]
        assert [row.state for row in spool.deliveries(key)] == ["due"] * 3

    def test_failure_waits_longer_each_time_and_then_is_dead(self, spool, clock):
        key = put(spool).key
        for attempt, wait in ((1, 5.0), (2, 10.0)):
            assert spool.claim().attempts == attempt
            spool.fail(key, reason="codec")
            assert spool.film(key).next_try == clock.now + wait
            assert spool.claim() is None
            clock.now += wait
        spool.claim()
        spool.fail(key, reason="codec")
        row = spool.film(key)
        assert (row.state, row.reason, row.path.parent.name) == ("dead", "codec", "dead")
        assert row.path.exists()
        assert spool.claim() is None

    def test_final_failure_is_dead_at_once(self, spool):
        key = put(spool).key
        spool.claim()
        spool.fail(key, reason="modality", is_final=True)
        assert spool.film(key).state == "dead"

    def test_a_graded_film_stays_graded(self, spool):
        put(spool)
        key = grade(spool)
        spool.fail(key, reason="late")
        assert spool.film(key).state == "graded"

    def test_films_of_a_dead_worker_run_out_of_attempts(self, spool, clock):
        key = put(spool).key
        for _ in range(3):
            spool.claim()
            assert spool.release_worker(os.getpid()) == 1
            clock.now += 100
        assert spool.film(key).state == "dead"
        assert spool.release_worker(os.getpid()) == 0

    def test_results_are_replaced_as_a_whole(self, spool):
        key = put(spool).key
        for name in ("a", "b"):
            with spool.writing_results(key) as folder:
                (folder / name).write_text(name)
        assert [path.name for path in spool.results(key).iterdir()] == ["b"]
        with suppress(ZeroDivisionError), spool.writing_results(key) as folder:
            (folder / "half").write_text("")
            raise ZeroDivisionError
        assert [path.name for path in spool.results(key).iterdir()] == ["b"]
        assert list((spool.directory / "tmp").iterdir()) == []

    @pytest.mark.parametrize("key", ["", "..", "a" * 39, "A" * 40, "../" + "a" * 37])
    def test_only_keys_name_results(self, spool, key):
        with pytest.raises(UsageError, match="40 hexadecimal digits"):
            spool.results(key)


class TestDeliveries:
    def test_sent_once(self, spool):
        put(spool)
        key = grade(spool, {"archive": ["sr.dcm"]})
        (delivery,) = spool.due_deliveries("archive")
        spool.record_delivery(delivery)
        spool.record_delivery(delivery, error="late answer")
        assert spool.due_deliveries("archive") == []
        assert [(row.state, row.attempts, row.reason) for row in spool.deliveries(key)] == [("sent", 1, None)]

    def test_back_off_and_dead_letter(self, spool, clock):
        put(spool)
        key = grade(spool, {"archive": ["sr.dcm"]})
        waits = []
        while due := spool.due_deliveries("archive"):
            spool.record_delivery(due[0], error="refused 0xA700")
            row = spool.deliveries(key)[0]
            if row.state == "due":
                waits.append(row.next_try - clock.now)
                clock.now = row.next_try - 0.5
                assert spool.due_deliveries("archive") == []
                clock.now = row.next_try
        assert waits == [min(5.0 * 2**n, 3600.0) for n in range(11)]
        assert (row.state, row.attempts, row.reason) == ("dead", 12, "refused 0xA700")

    def test_dead_destination_does_not_hold_up_the_other(self, spool):
        put(spool)
        grade(spool, {"dead": ["sr.dcm"], "living": ["sr.dcm"]})
        spool.record_delivery(spool.due_deliveries("dead")[0], error="refused", is_final=True)
        assert len(spool.due_deliveries("living")) == 1
        assert spool.counts()["deliveries"] == {"due": 1, "sent": 0, "dead": 1}

    def test_graded_again_sends_nothing_again(self, spool):
        put(spool)
        key = grade(spool, {"archive": ["sr.dcm"]})
        spool.record_delivery(spool.due_deliveries("archive")[0])
        spool.finish(key, deliveries={"archive": ["sr.dcm", "sc.dcm"]})
        assert [d.object for d in spool.due_deliveries("archive")] == ["sc.dcm"]


class TestLooking:
    def test_pages_of_films(self, spool, clock):
        keys = []
        for number in range(5):
            clock.now += number % 2  # two films of the same moment
            keys.append(put(spool, uid=str(number)).key)
        first = spool.films(limit=2)
        second = spool.films(limit=2, before=first[-1].key)
        third = spool.films(limit=2, before=second[-1].key)
        shown = [row.key for row in first + second + third]
        assert sorted(shown) == sorted(keys)
        assert [row.received for row in first + second + third] == sorted(
            (r.received for r in spool.films()), reverse=True
        )
        assert spool.films(state="dead") == []

    def test_unknown_film(self, spool):
        assert spool.film("0" * 40) is None
        assert spool.deliveries("0" * 40) == []


class TestRecovery:
    def test_temporary_files_go_unknown_films_come_and_work_is_freed(self, spool, clock):
        key = put(spool).key
        spool.claim()
        stream, _ = spool.temporary_file()
        stream.close()
        (spool.directory / "tmp" / "results").mkdir()
        unknown = spool.directory / "films" / ("a" * 40 + ".png")
        unknown.write_bytes(b"film")
        os.utime(unknown, (1e9, 1e9))
        other = reopened(spool)
        recovered = other.recover()
        assert (recovered.temporary_files, recovered.indexed_films, recovered.freed_films) == (2, 1, 1)
        assert (other.film("a" * 40).kind, other.film("a" * 40).received) == ("png", 1e9)
        assert (other.film(key).state, other.film(key).attempts) == ("received", 0)
        other.close()

    def test_lost_index_is_rebuilt_with_the_same_times(self, spool, clock):
        clock.now += 0.123
        keys = {put(spool, uid=str(number)).key for number in range(3)}
        dead = spool.claim().key
        spool.fail(dead, reason="codec", is_final=True)
        spool.close()
        for path in spool.directory.glob("spool.sqlite*"):
            path.unlink()
        spool.__init__(spool.directory, min_free_bytes=0, clock=spool._clock)
        assert spool.recover().indexed_films == 3
        rows = {row.key: row for row in spool.films()}
        assert rows.keys() == keys
        assert {key for key, row in rows.items() if row.state == "dead"} == {dead}
        assert all(row.received == pytest.approx(clock.now, abs=1e-6) for row in rows.values())

    def test_a_found_film_gets_its_sender_and_uid_when_it_is_sent_again(self, spool):
        key = put(spool, uid="1.2.3", sender="WARD").key
        with spool._transaction() as index:
            index.execute("delete from films")  # as after a kill between the rename and the commit
        assert spool.recover().indexed_films == 1
        assert (spool.film(key).sender, spool.film(key).sop_instance_uid) == ("unknown", None)
        assert put(spool, uid="1.2.3", sender="WARD").is_new is False
        put(spool, uid="1.2.3", sender="OTHER")
        assert (spool.film(key).sender, spool.film(key).sop_instance_uid) == ("WARD", "1.2.3")

    def test_a_film_in_work_at_ten_stops_is_dead(self, spool):
        key = put(spool).key
        for number in range(MAX_INTERRUPTIONS):
            assert spool.film(key).state == "received", number
            spool.claim()
            spool.recover()
        assert spool.film(key).state == "dead"

    def test_a_film_in_work_at_a_stop_does_not_hold_up_the_others(self, spool, clock):
        first = put(spool, uid="1").key
        spool.claim()
        spool.recover()
        clock.now += 1
        second = put(spool, uid="2").key
        assert [spool.claim().key, spool.claim().key] == [second, first]

    @pytest.mark.parametrize(("state", "folder"), [("dead", "films"), ("received", "dead")])
    def test_the_place_of_the_file_decides_after_a_kill_between_rename_and_commit(self, spool, state, folder):
        key = put(spool).key
        if folder == "dead":
            os.replace(spool.film(key).path, spool.directory / "dead" / f"{key}.dcm")
        with spool._transaction() as index:
            index.execute("update films set state = ?", (state,))
        spool.recover()
        assert spool.film(key).path.exists()

    def test_damaged_index_is_named(self, tmp_path):
        (tmp_path / "spool.sqlite").write_bytes(b"not a database" * 1000)
        with pytest.raises(SpoolError, match=r"spool\.sqlite\) is damaged"):
            Spool(tmp_path)

    def test_newer_index_is_refused(self, spool):
        with spool._transaction() as index:
            index.execute("pragma user_version = 99")
        with pytest.raises(SpoolError, match="newer version"):
            Spool(spool.directory)


class TestUpkeep:
    def test_retry_revives_films_and_deliveries(self, spool, clock):
        dead, waits = put(spool, uid="1").key, put(spool, uid="2").key
        spool.claim()
        spool.claim()
        spool.fail(dead, reason="codec", is_final=True)
        spool.fail(waits, reason="memory")
        assert spool.retry(["0" * 40]) == 0
        assert spool.retry([dead]) == 1
        assert spool.claim().key == dead
        spool.finish(dead, deliveries={"archive": ["sr.dcm"]})
        spool.record_delivery(spool.due_deliveries("archive")[0], error="refused", is_final=True)
        assert spool.retry() == 2  # the other film, and the delivery
        assert len(spool.due_deliveries("archive")) == 1
        assert spool.claim().attempts == 1

    def test_purge_leaves_work_and_what_is_due(self, spool, clock):
        done, due, new, working, dead = (put(spool, uid=str(number), content=b"%d" % number).key for number in range(5))
        for key, deliveries in ((done, {}), (due, {"archive": ["sr.dcm"]})):
            with spool.writing_results(key) as folder:
                (folder / "report.json").write_text("{}")
            spool.finish(key, deliveries=deliveries)
        with spool._transaction() as index:
            index.execute("update films set state = 'working' where key = ?", (working,))
        spool.fail(dead, reason="codec", is_final=True)
        clock.now += 100
        assert spool.purge(older_than_seconds=101) == 0
        assert spool.purge(older_than_seconds=99) == 2
        assert {row.key for row in spool.films()} == {due, new, working}
        assert not spool.results(done).exists()
        assert spool.purge(older_than_seconds=99, force=True) == 2
        assert [row.key for row in spool.films()] == [working]
        assert [path.stem for path in (spool.directory / "films").iterdir()] == [working]
        assert list((spool.directory / "dead").iterdir()) == []

    def test_purge_of_many_films_lets_others_write_in_between(self, spool, clock, monkeypatch):
        monkeypatch.setattr("kneegrade.server.spool.spool_upkeep.PURGE_FILMS", 2)
        keys = [put(spool, uid=str(number)).key for number in range(5)]
        for _ in keys:
            grade(spool)
        other, written = sqlite3.connect(spool.directory / "spool.sqlite", timeout=0), []

        def remove(paths):
            other.execute("update films set sender = 'OTHER'").connection.commit()
            written.append(len(paths))
            remove_all(paths)

        monkeypatch.setattr("kneegrade.server.spool.film_spool.remove_all", remove)
        clock.now += 1
        assert spool.purge(older_than_seconds=0) == 5
        other.close()
        assert written == [4, 4, 2, 0]
        assert [path.name for path in spool.directory.rglob("*") if path.is_file() and "sqlite" not in path.name] == []

    def test_a_film_that_was_purged_meanwhile_gets_no_deliveries(self, spool):
        key = put(spool).key
        spool.purge(older_than_seconds=-1, force=True)
        spool.finish(key, deliveries={"archive": ["sr.dcm"]})
        assert spool.deliveries(key) == []
        assert spool.counts()["deliveries"]["due"] == 0


class TestProcesses:
    def test_reading_does_not_wait_for_a_thread_that_waits_to_write(self, spool):
        key = put(spool).key
        other = sqlite3.connect(spool.directory / "spool.sqlite", isolation_level=None)
        other.execute("begin immediate")
        waiting = threading.Thread(target=spool.claim)
        waiting.start()
        time.sleep(0.1)
        start = time.monotonic()
        assert spool.film(key).state == "received"
        took = time.monotonic() - start
        is_waiting = waiting.is_alive()
        other.execute("rollback")
        other.close()
        waiting.join()
        assert is_waiting
        assert took < 1

    def test_a_process_that_looks_and_ends_leaves_the_index_of_the_others(self, spool):
        """As `kneegrade spool ls` does: its end must not take away the write-ahead log of a running service."""
        look = (
            "import sys; from pathlib import Path; from kneegrade.server.spool.film_spool import Spool\n"
            "spool = Spool(Path(sys.argv[1]), min_free_bytes=0); print(spool.counts()['films']['received']); "
            "spool.close()"
        )
        seen = []
        for number in range(3):
            put(spool, uid=str(number))
            command = [sys.executable, "-c", look, str(spool.directory)]
            seen.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        assert seen == [1, 2, 3]
        assert (spool.directory / "spool.sqlite-wal").exists()

    def test_threads_and_spools_claim_every_film_once(self, spool):
        spools = [reopened(spool) for _ in range(4)]
        claimed = []

        def fill(one, number):
            for item in range(10):
                put(one, uid=f"{number}.{item % 8}")  # two of them twice

        def take(one):
            while film := one.claim():
                claimed.append(film.key)

        for work in ([(fill, one, n) for n, one in enumerate(spools)], [(take, one) for one in spools]):
            threads = [threading.Thread(target=call[0], args=call[1:]) for call in work]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
        for one in spools:
            one.close()
        assert len(claimed) == len(set(claimed)) == 32

    def test_acknowledged_films_survive_kills(self, tmp_path):
        """A process accepts films and says so; it is killed at any moment, six times."""
        program = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from pathlib import Path; from kneegrade.server.spool.film_spool import Spool\n"
            "spool = Spool(Path(sys.argv[2]), min_free_bytes=0); spool.recover()\n"
            "for number in range(100000):\n"
            "    stream, path = spool.temporary_file(); stream.write(b'x' * 20000); stream.close()\n"
            "    uid = f'{sys.argv[3]}.{number}'\n"
            "    print(spool.accept(path, kind='dicom', sop_instance_uid=uid, sender='A').key, flush=True)\n"
        )
        acknowledged = set()
        for trial in range(6):
            command = [sys.executable, "-c", program, SOURCE, str(tmp_path), str(trial)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                first = process.stdout.readline()
                time.sleep(0.03 * trial)
                process.send_signal(signal.SIGKILL)
                lines = (first + process.stdout.read()).split("\n")[:-1]  # the last one may be torn
            acknowledged.update(lines)
        spool = Spool(tmp_path, min_free_bytes=0)
        spool.recover()
        rows = {row.key for row in spool.films(limit=10**6)}
        files = {path.stem for path in (tmp_path / "films").iterdir()}
        spool.close()
        assert len(acknowledged) >= 6
        assert acknowledged <= rows == files
        check = sqlite3.connect(tmp_path / "spool.sqlite")
        assert check.execute("pragma integrity_check").fetchone() == ("ok",)
        check.close()
