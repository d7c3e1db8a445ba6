"""The generated messages are those of etcd.proto, and stand beside other clients' without a clash."""

from __future__ import annotations

import re
from pathlib import Path

from meshagent.wire import etcd_pb2 as pb

PROTO = Path(pb.__file__).with_name("etcd.proto").read_text(encoding="utf-8")
_FIELD = re.compile(r"^\s+(?:repeated )?[\w.]+ (\w+) = (\d+);", re.MULTILINE)


def test_the_generated_messages_have_the_fields_and_numbers_of_the_source() -> None:
    blocks = re.split(r"^message ", PROTO, flags=re.MULTILINE)[1:]
    written = {}
    for block in blocks:
        name = block.split()[0]
        body = re.sub(r"enum \w+ \{.*?\}", "", block, flags=re.DOTALL)
        written[name] = {field: int(number) for field, number in _FIELD.findall(body)}
    generated = {
        name: {field.name: field.number for field in message.fields}
        for name, message in pb.DESCRIPTOR.message_types_by_name.items()
    }

    assert generated == written
    assert len(generated) > 25


def test_the_package_and_the_file_are_private() -> None:
    assert pb.DESCRIPTOR.package == "meshagent.wire.etcd"
    assert pb.DESCRIPTOR.name == "meshagent/wire/etcd.proto"


def test_the_generated_code_is_of_the_oldest_protobuf_that_is_supported() -> None:
    code = Path(pb.__file__).read_text(encoding="utf-8")

    assert "# Protobuf Python Version: 6.31.1" in code
