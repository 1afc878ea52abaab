"""TLS, passwords and other properties of Kafka's clients: where they are written, what is refused, and that no secret is shown."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from broker import PASSWORD, USER, SecureBroker, authority, missing
from headrace.cli import main
from headrace.cli.logs import KafkaOptions, asked_cluster
from headrace.engines.kafka import java_properties
from headrace.errors import EnvironmentFault, HeadraceError, PlanError
from headrace.topics.cluster import Cluster, Property
from headrace.topics.protocol import Away

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def cluster_of(text: str, name: str = "kafka.properties", servers: str | None = "a:1") -> Cluster:
    Path(name).write_text(text)
    found = asked_cluster(KafkaOptions(kafka_servers=servers, kafka_config=Path(name)))
    assert found is not None
    return found


# where properties are written


def test_properties_are_lines_or_toml_and_their_names_are_librdkafkas() -> None:
    want = {"security.protocol": "SASL_SSL", "sasl.username": "u", "sasl.password": "a=b #c", "linger.ms": "7", "ssl.ca.location": "/ca.pem"}
    lines = "# a comment\n! another\n\n security.protocol = SASL_SSL\nsasl.username=u\nsasl.password=a=b #c\nlinger.ms=7\nssl.ca.location=/ca.pem\r\n"
    assert cluster_of(lines).settings == want
    toml = 'security.protocol = "SASL_SSL"\n"linger.ms" = 7\n[sasl]\nusername = "u"\npassword = "a=b #c"\n[ssl.ca]\nlocation = "/ca.pem"\n'
    assert cluster_of(toml, "kafka.toml").settings == want
    assert cluster_of("[kafka]\nenable.ssl.certificate.verification = false\n", "plant.toml").settings == {
        "enable.ssl.certificate.verification": "false"
    }


def test_the_option_comes_before_the_file_that_before_the_environment_and_that_before_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("headrace.toml").write_text('[kafka]\nbootstrap.servers = "table:1"\nclient.id = "table"\nclient.rack = "table"\nlinger.ms = 1\n')
    found = asked_cluster()
    assert found is not None
    assert (found.servers, found.settings) == ("table:1", {"client.id": "table", "client.rack": "table", "linger.ms": "1"})
    monkeypatch.setenv("KAFKA_SERVERS", "variable:2")
    monkeypatch.setenv("KAFKA_CLIENT_ID", "variable")
    monkeypatch.setenv("KAFKA_CLIENT_RACK", "variable")
    found = asked_cluster()
    assert found is not None
    assert (found.servers, found.settings) == ("variable:2", {"client.id": "variable", "client.rack": "variable", "linger.ms": "1"})
    found = cluster_of("bootstrap.servers=file:3\nclient.id=file\n".replace("file:3", "three:3"), servers=None)
    assert (found.servers, found.settings) == ("three:3", {"client.id": "file", "client.rack": "variable", "linger.ms": "1"})
    assert cluster_of("bootstrap.servers=three:3\n", servers="option:4").servers == "option:4"
    monkeypatch.setenv("KAFKA_SERVERS", "")
    assert asked_cluster() is None


def test_variables_of_the_environment_that_are_about_security_are_honoured_and_others_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_PASSWORD": "a${b}", "KAFKA_SSL_CA_LOCATION": "/ca.pem", "KAFKA_SASL_USERNAME": "",
        "KAFKA_PORT": "tcp://10.0.0.1:9092", "KAFKA_HEAP_OPTS": "-Xmx1g", "KAFKA_SERVICE_HOST": "10.0.0.1", "KAFKA_SERVERS": "a:1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    found = asked_cluster()
    assert found is not None
    assert found.settings == {"security.protocol": "SASL_SSL", "sasl.password": "a${b}", "ssl.ca.location": "/ca.pem"}
    monkeypatch.setenv("KAFKA_SASL_JAAS_CONFIG", "x")
    with pytest.raises(PlanError, match=r"environment KAFKA_SASL_JAAS_CONFIG: sasl\.jaas\.config is not .*sasl\.username and sasl\.password"):
        asked_cluster()


def test_a_secret_is_in_a_file_or_in_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANT_PASSWORD", "file:${x}")
    (folder / "secret").write_text("  s3cret\n")
    found = cluster_of("sasl.username=${PLANT_PASSWORD}-\nsasl.password=file:secret\n")
    assert found.settings == {"sasl.username": "file:${x}-", "sasl.password": "  s3cret"}
    assert "s3cret" not in repr(found)
    with pytest.raises(PlanError, match=r"kafka\.properties: sasl\.password names \$\{NONE\}, which is not set; set NONE"):
        cluster_of("sasl.password=${NONE}\n")
    with pytest.raises(PlanError, match=r"sasl\.password names the file none, which cannot be read: No such file"):
        cluster_of("sasl.password=file:none\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("transactional.id=x", "transactional.id cannot be set: .* exactly once; leave it out"),
        ("group.id=x", "group.id cannot be set"),
        ("isolation.level=read_uncommitted", "isolation.level cannot be set"),
        ("enable.auto.commit=true", "enable.auto.commit cannot be set"),
        ("acks=1", "acks cannot be set"),
        ("debug=all", "debug cannot be set"),
        ("ssl.truststore.location=/x", "ssl.truststore.location is not a property of librdkafka.*ssl.ca.location"),
        ("sasl.username=a\nsasl.username=b", "sasl.username is there twice"),
        ("what is this", "line 1: is not NAME=VALUE"),
    ],
)
def test_what_would_break_a_run_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(PlanError, match=rf"kafka\.properties.*{said}"):
        cluster_of(text)


def test_a_file_that_names_no_servers_and_one_that_is_not_there(refused: Callable[..., str]) -> None:
    Path("kafka.properties").write_text("security.protocol=SSL\n")
    said = refused("topics", "list", "--kafka-config", "kafka.properties")
    assert said == "--kafka-config kafka.properties: names no servers; give --kafka-servers HOST:PORT, or write bootstrap.servers there"
    assert "--kafka-config none: cannot be read: No such file" in refused("topics", "list", "--kafka-config", "none")
    Path("kafka.toml").write_text("x = [1]\n")
    assert "kafka.toml: x is not a text" in refused("topics", "list", "--kafka-config", "kafka.toml")
    Path("kafka.toml").write_text("x = \n")
    assert "kafka.toml: is not TOML" in refused("topics", "list", "--kafka-config", "kafka.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sasl.pasword=s3cret", 'No such configuration property: "sasl.pasword"'),
        ("security.protocol=s3cret", 'Invalid value "s3cret" for configuration property "security.protocol"'),
        ("security.protocol=SSL\nssl.ca.location=/none.pem", "ssl.ca.location"),
        ("security.protocol=SSL\nssl.key.pem=s3cret", "ssl.key.pem"),
    ],
)
def test_what_librdkafka_does_not_take_is_said_with_the_file(refused: Callable[..., str], text: str, said: str) -> None:
    pytest.importorskip("confluent_kafka")
    Path("kafka.properties").write_text(text + "\n")
    line = refused("topics", "list", "--kafka-servers", "127.0.0.1:9", "--kafka-config", "kafka.properties")
    assert line.startswith("kafka.properties: Kafka's client cannot be set up")
    assert said in line
    assert "s3cret" not in line or "security.protocol" in line


# Flink and Spark


def test_clients_in_java_get_the_same_by_their_own_names(folder: Path) -> None:
    (folder / "ca.pem").write_text("a comment\n" + CERTIFICATE)
    text = 'security.protocol=sasl_ssl\nsasl.mechanisms=SCRAM-SHA-512\nsasl.username=u\nsasl.password=a"b\\c\nssl.ca.location=ca.pem\nclient.id=x\n'
    assert java_properties(cluster_of(text), "Flink", shaded="shaded.") == {
        "security.protocol": "SASL_SSL",
        "client.id": "x",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.certificates": CERTIFICATE.strip().replace("\n", " "),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.jaas.config": 'shaded.org.apache.kafka.common.security.scram.ScramLoginModule required username="u" password="a\\"b\\\\c";',
    }
    mutual = Cluster("a:1", (Property("ssl.certificate.pem", CERTIFICATE, "f"), Property("ssl.key.pem", CERTIFICATE, "f")))
    assert java_properties(mutual, "Spark").keys() == {"ssl.keystore.type", "ssl.keystore.certificate.chain", "ssl.keystore.key"}
    for refused in ("queued.min.messages=1", "enable.ssl.certificate.verification=false", "sasl.mechanism=GSSAPI", "ssl.ca.location=none"):
        with pytest.raises(PlanError, match=rf"kafka.properties: .*{refused.partition('=')[0]}"):
            java_properties(cluster_of(refused), "Spark")


# a broker with TLS and a password


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    if (why := missing()) is not None:
        pytest.skip(why)
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    pytest.importorskip("confluent_kafka")
    broker = SecureBroker(tmp_path_factory.mktemp("secure"))
    broker.start()
    yield broker
    broker.end()


@pytest.fixture
def config(secure: SecureBroker, folder: Path) -> Path:
    path = folder / "kafka.toml"
    path.write_text(
        f"""bootstrap.servers = "{secure.secure}"
security.protocol = "SASL_SSL"
ssl.ca.location = "{secure.ca}"
[sasl]
mechanism = "SCRAM-SHA-512"
username = "{USER}"
password = "file:password"
"""
    )
    (folder / "password").write_text(PASSWORD + "\n")
    return path


APP = """
import headrace as hr

@hr.pipeline("through", version="1")
def through():
    events = hr.stream("events", schema={"t": "BIGINT", "k": "STRING"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    return {"out": events.select("k")}
"""


def test_a_pipeline_runs_over_tls_with_a_password_and_shows_no_secret(
    secure: SecureBroker, config: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("app.py").write_text(APP)
    Path("events").write_text("".join(f'{{"t":{1_700_000_000_000 + at},"k":"{at}"}}\n' for at in range(50)))
    with_config = ["--kafka-config", str(config)]
    assert main(["topics", "create", "events", "--partitions", "2", *with_config]) == 0
    assert main(["topics", "append", "events", "events", *with_config]) == 0
    command = [sys.executable, "-m", "headrace", "run", "app.py", "--until", "latest", *with_config]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "50 received = 50 accepted" in ran.stderr
    capfd.readouterr()
    assert main(["topics", "tail", "out", "--from-beginning", *with_config]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 50
    assert main(["doctor", "app.py", *with_config]) == 0, capfd.readouterr()
    assert f"ok    Kafka {secure.secure}: 1 broker" in capfd.readouterr().out
    assert main(["ledger", "app.py", *with_config]) == 0
    job = subprocess.run([sys.executable, "-m", "headrace", "jobs", "submit", "app.py", "--until", "latest", *with_config], check=True, timeout=180)
    assert job.returncode == 0
    assert main(["plan", "app.py", "--engine", "flink"]) == 0
    shown = ran.stderr + ran.stdout + "".join(capfd.readouterr())
    kept = [path for path in folder.rglob("*") if path.is_file() and path.name != "password" and PASSWORD.encode() in path.read_bytes()]
    assert (PASSWORD in shown, kept) == (False, [])


def told(cluster: Cluster, folder: Path) -> HeadraceError:
    from headrace.topics.kafka import KafkaLog

    with pytest.raises(HeadraceError) as caught, closing(KafkaLog(cluster, folder / "home")):
        pass
    assert PASSWORD not in str(caught.value)
    return caught.value


def test_whose_fault_it_is_when_no_connection_comes_about(secure: SecureBroker, config: Path, folder: Path) -> None:
    cluster = asked_cluster(KafkaOptions(kafka_config=config))
    assert cluster is not None

    def but(**values: str) -> Cluster:
        named = {name.replace("_", "."): value for name, value in values.items()}
        return replace(cluster, properties=tuple(one._replace(value=named.get(one.name, one.value)) for one in cluster.properties))

    wrong = told(but(sasl_password="other"), folder)
    assert isinstance(wrong, EnvironmentFault) and not isinstance(wrong, Away)
    assert re.search(
        r"it refuses the user or the password: .*; correct sasl\.username, sasl\.password or sasl\.mechanism in .*kafka\.toml$", str(wrong)
    )
    wrong = told(but(ssl_ca_location=str(authority(folder, "other"))), folder)
    assert isinstance(wrong, EnvironmentFault) and not isinstance(wrong, Away)
    assert re.search(r"its certificate is not signed by a known CA.*; set ssl\.ca\.location to .* in .*kafka\.toml$", str(wrong))
    wrong = told(Cluster(secure.secure), folder)
    assert re.search(
        r"it closes every connection; if the listener has TLS or asks for a password, set security\.protocol .*--kafka-config FILE$", str(wrong)
    )
    wrong = told(replace(cluster, servers=secure.servers), folder)
    assert re.search(r"there is no TLS with it: .*; if the listener has no TLS, set another security\.protocol in .*kafka\.toml$", str(wrong))
