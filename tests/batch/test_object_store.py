"""Films in an object store that speaks S3."""

import pytest

from kneegrade.batch.film_task import content_version
from kneegrade.batch.plan import plan_films

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket(monkeypatch):
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    s3fs = pytest.importorskip("s3fs")
    server.start()
    address, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}:{port}")
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    store = s3fs.S3FileSystem(skip_instance_cache=True)
    store.mkdir("films")
    store.pipe({"films/a/one.dcm": b"one", "films/two.png": b"two", "films/readme.txt": b"none"})
    yield "films"
    server.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_films_of_a_bucket_are_listed_with_their_versions_and_read(bucket):
    films = plan_films([f"s3://{bucket}"]).films
    assert [(film.source.name, film.source.open()) for film in films] == [("a/one.dcm", b"one"), ("two.png", b"two")]
    versions = [film.source.load.version for film in films]
    assert len(set(versions)) == 2
    (alone,) = plan_films([f"s3://{bucket}/two.png"]).films  # not from a listing
    assert content_version(alone) == versions[1]
