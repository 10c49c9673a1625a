import re

import pytest

from kneegrade.errors import UsageError
from kneegrade.server.settings import ServeSettings, example_settings, load_settings

LEAST = '[spool]\ndirectory = "spool"\n[rest]\ntokens = "tokens"\n'


def load(folder, text):
    path = folder / "serve.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path)


def refusal(folder, text):
    with pytest.raises(UsageError) as error:
        load(folder, text)
    return error.value.message


def uncommented(text):
    """The example with all lines that show a setting or a section."""
    return "\n".join(re.sub(r"^# (?=[a-z_]+ = |ARCHIVE|MODALITY|\[)", "", line) for line in text.splitlines())


def test_the_example_is_valid_and_its_comments_show_the_defaults(tmp_path, monkeypatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
    short = load(tmp_path, example_settings())
    full = load(tmp_path, uncommented(example_settings()))
    assert {one.kind for one in full.destination} == {"dimse", "stow", "fhir"}
    changed = {"weights": None, "detector": None}
    assert full.grading.model_copy(update=changed) == short.grading
    assert full.node.model_copy(update={"calling": {}, "tls": None}) == short.node
    assert full.rest.model_copy(update={"tls": None}) == short.rest
    assert (full.results, full.spool, full.log_level) == (short.results, short.spool, short.log_level)


def test_the_example_names_every_setting(tmp_path):
    text = example_settings()
    for section in ("spool", "grading", "node", "rest", "results"):
        model = next(
            kind
            for kind in (ServeSettings.model_fields[section].annotation, *_arguments(section))
            if hasattr(kind, "model_fields")
        )
        part = text.partition(f"\n[{section}]")[2].partition("\n[")[0]
        for name in model.model_fields:
            assert re.search(rf"^(# )?({name} = |\[{section}\.{name}\])", part, re.M), f"{section}.{name}"


def _arguments(section):
    return getattr(ServeSettings.model_fields[section].annotation, "__args__", ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LEAST + "prot = 1\n", "serve.toml, line 5: rest.prot: this setting does not exist; allowed are tokens, addr"),
        (LEAST + "port = 70000\n", "serve.toml, line 5: rest.port: Input should be less than or equal to 65535"),
        ('[rest]\ntokens = "t"\n', "serve.toml, line 1: spool: this setting is missing"),
        ("[spool]\n\n[rest]\ntokens = 't'\n", "serve.toml, line 1: spool.directory: this setting is missing"),
        ("[spool]\ndirectory = 's'\n", "add [node] or [rest]"),
        (LEAST + "[nod]\n", "serve.toml, line 5: nod: this setting does not exist"),
        (LEAST + "a\n", "serve.toml is not valid TOML: Expected '=' after a key in a key/value pair (at line 5"),
        (LEAST + "[results]\nobjects = [\n  'sr',\n  'xx',\n]\n", "line 6: results.objects.2: Input should be 'sr'"),
        (LEAST + "address = 'localhost'\n", "line 5: rest.address: expected an IP address of this computer"),
        ("[spool]\ndirectory = '$NO_SUCH/x'\n[node]\n", "line 2: spool.directory: the environment variable NO_SUCH"),
        (LEAST + "[node.calling]\nA = ['ward']\n", "line 6: node.calling.A.1: expected an IP address or a network"),
        (LEAST + "[[destination]]\nname='a'\nkind='smb'\n", "line 5: destination.1: Input tag 'smb'"),
        (
            LEAST + "[[destination]]\nkind='stow'\nname='a'\nurl='https://a'\nx=1\n",
            "line 9: destination.1.x: this sett",
        ),
    ],
)
def test_a_wrong_setting_is_refused_with_its_line(text, message, tmp_path):
    assert message in refusal(tmp_path, text)


def test_two_destinations_need_two_names(tmp_path):
    one = "[[destination]]\nname='a'\nkind='stow'\nurl='https://a.example'\n"
    assert "same name" in refusal(tmp_path, LEAST + one + one)


@pytest.mark.parametrize("address", ["0.0.0.0", "10.0.0.1", "::"])
def test_other_computers_need_callers_for_the_node_and_tls_for_rest(address, tmp_path):
    assert "[node.calling]" in refusal(tmp_path, LEAST + f"[node]\naddress = '{address}'\n")
    assert "[rest.tls]" in refusal(tmp_path, LEAST + f"address = '{address}'\n")
    open_node = f"[node]\naddress = '{address}'\n[node.calling]\nARCHIVE = ['10.0.0.5', '10.1.0.0/16']\n"
    assert load(tmp_path, LEAST + open_node).node.calling == {"ARCHIVE": ("10.0.0.5", "10.1.0.0/16")}
    assert load(tmp_path, LEAST + f"address = '{address}'\nplain_http = true\n").rest.address == address


def test_node_tls_without_client_certificates_does_not_keep_strangers_out(tmp_path):
    tls = "[node]\naddress = '0.0.0.0'\n[node.tls]\ncertificate = 'c'\n"
    assert "[node.calling]" in refusal(tmp_path, LEAST + tls)
    assert load(tmp_path, LEAST + tls + "clients = 'ca'\n").node.tls.clients == tmp_path / "ca"


def test_paths_start_at_the_folder_of_the_file_and_have_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
    settings = load(tmp_path, LEAST.replace('"tokens"', '"$CREDENTIALS_DIRECTORY/tokens"'))
    assert settings.spool.directory == tmp_path / "spool"
    assert str(settings.rest.tokens) == "/run/credentials/tokens"
    assert ServeSettings.model_validate_json(settings.model_dump_json()) == settings


def test_objects_are_those_wanted_and_those_of_destinations(tmp_path):
    settings = load(
        tmp_path,
        LEAST + "[results]\nobjects = ['sc']\n[[destination]]\nkind='stow'\nname='a'\nurl='https://a'\nobjects=['sr']\n"
        "[[destination]]\nkind='fhir'\nname='b'\nurl='https://b'\n",
    )
    assert sorted(settings.objects) == ["fhir", "sc", "sr"]
    files = ("fhir.json", "report.json", "sc.dcm", "sr.dcm")
    assert settings.deliveries(files) == {"a": ("sr.dcm",), "b": ("fhir.json",)}
    assert settings.deliveries(("report.json",)) == {"a": (), "b": ()}
