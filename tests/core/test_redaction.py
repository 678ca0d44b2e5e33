import pytest

from velodrome.core.redaction import redact_arguments


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--password=hunter2"], ["--password=[redacted]"]),
        (["--db-password", "hunter2", "x"], ["--db-password", "[redacted]", "x"]),
        (["AWS_SECRET_ACCESS_KEY=abc"], ["AWS_SECRET_ACCESS_KEY=[redacted]"]),
        (["HF_TOKEN=a=b"], ["HF_TOKEN=[redacted]"]),
        (["postgresql://ann:pw@host/db"], ["postgresql://[redacted]@host/db"]),
        (["--store=s3://key:secret@host"], ["--store=s3://[redacted]@host"]),
        (["postgresql://ann:p/w@d@host/db"], ["postgresql://[redacted]@host/db"]),
        (["--max-tokens=5", "--tokenizer", "x", "token"], ["--max-tokens=5", "--tokenizer", "x", "token"]),
    ],
)
def test_what_is_secret_is_not_shown(given: list[str], shown: list[str]) -> None:
    assert list(redact_arguments(given)) == shown
