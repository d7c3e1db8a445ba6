"""ACME: what is sent is signed as RFC 8555 has it, and a CA that answers nonsense gets nothing and harms nobody."""

import base64
import hashlib
import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from meshagent.ca.acme import Ordering
from meshagent.ca.acme_calls import AcmeCa, _Heard
from meshagent.ca.outside import request_for
from meshagent.errors import AuthorityUnavailable, OrderRefused
from meshagent.model.certificate import Acme

KEY = ec.generate_private_key(ec.SECP256R1())
CA = "https://ca.example"
ASKED = Acme(directory=f"{CA}/dir", hosts=("shop.example.org",), terms_agreed=True, email="ops@example.org")
CSR = request_for(KEY, ASKED.hosts)
DIRECTORY = {name: f"{CA}/{name}" for name in ("newNonce", "newAccount", "newOrder")}
QUESTION = {"type": "http-01", "token": "a-token_1", "url": f"{CA}/question"}
PENDING = {"status": "pending", "identifier": {"type": "dns", "value": "shop.example.org"}, "challenges": [QUESTION]}
ORDER = {"status": "pending", "authorizations": [f"{CA}/authorization"], "finalize": f"{CA}/finalize"}
VALID = {"status": "valid", "certificate": f"{CA}/certificate"}
ANSWERS = {
    "dir": [DIRECTORY],
    "newAccount": [{"status": "valid"}],
    "newOrder": [ORDER],
    "authorization": [PENDING, PENDING, {"status": "valid"}],
    "question": [{}],
    "finalize": [{"status": "processing"}],
    "order": [{"status": "processing"}, VALID],
    "certificate": [b"the chain"],
}
PLACES = {"newAccount": f"{CA}/account", "newOrder": f"{CA}/order"}


def problem(kind, status=403, retry="", **more):
    headers = {"Retry-After": retry} if retry else {}
    return _Heard(status, headers, json.dumps({"type": f"urn:ietf:params:acme:error:{kind}", **more}).encode())


class Script:
    """Stands for the network. Answers each address with what it is told, in turn, and keeps what was sent."""

    def __init__(self, monkeypatch, **answers):
        self.answers = {name: list(told) for name, told in {**ANSWERS, **answers}.items()}
        self.sent, self.shown, self.nonces = [], [], 0

        async def send(ca, method, url, data=None):
            name = url.removeprefix(f"{CA}/")
            self.sent.append((method, name, json.loads(data) if data else None))
            self.nonces += 1
            ca._nonces = [f"nonce-{self.nonces}"]
            if method == "HEAD":
                return _Heard(200, {}, b"")
            answer = self.answers[name].pop(0)
            if isinstance(answer, _Heard):
                return answer
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            return _Heard(200, {"Location": PLACES.get(name, "")}, raw)

        async def no_pause(_):
            return None

        monkeypatch.setattr(AcmeCa, "_send", send)
        monkeypatch.setattr("meshagent.ca.acme.asyncio.sleep", no_pause)

    async def show(self, challenges):
        self.shown.append(dict(challenges))

    async def order(self):
        self.ordering = Ordering(ASKED, KEY, "/roots.pem", self.show)
        return await self.ordering.obtain(CSR)

    def posted(self, name):
        """(protected, payload) of what was posted there, each signed by the account's key."""
        found = []
        for method, where, body in self.sent:
            if (method, where) == ("POST", name):
                raw = unpadded(body["signature"])
                signature = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
                signed = f"{body['protected']}.{body['payload']}".encode()
                KEY.public_key().verify(signature, signed, ec.ECDSA(hashes.SHA256()))
                payload = unpadded(body["payload"])
                found.append((json.loads(unpadded(body["protected"])), json.loads(payload) if payload else None))
        return found


def unpadded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def test_a_certificate_is_ordered_step_by_step_and_every_step_is_signed(monkeypatch):
    script = Script(monkeypatch)
    assert await script.order() == b"the chain"
    [(first, account)] = script.posted("newAccount")
    assert account == {"termsOfServiceAgreed": True, "contact": ["mailto:ops@example.org"]}
    assert (first["alg"], first["url"], "kid" in first) == ("ES256", f"{CA}/newAccount", False)
    [(second, order)] = script.posted("newOrder")
    assert order == {"identifiers": [{"type": "dns", "value": "shop.example.org"}]}
    assert (second["kid"], "jwk" in second) == (f"{CA}/account", False)
    assert script.posted("authorization")[0][1] is None
    assert [payload for _, payload in script.posted("question")] == [{}]
    nonces = [each["nonce"] for name in ANSWERS for each, _ in script.posted(name)]
    assert len(set(nonces)) == len(nonces)
    # RFC 7638: the thumbprint of the account's key is what the gateway answers, and only until the CA has seen it
    thumbprint = hashlib.sha256(json.dumps(first["jwk"], sort_keys=True, separators=(",", ":")).encode()).digest()
    answer = f"a-token_1.{base64.urlsafe_b64encode(thumbprint).rstrip(b'=').decode()}"
    assert script.shown == [{"a-token_1": answer}, {}]


async def test_names_that_the_ca_takes_for_proven_are_not_proven_again(monkeypatch):
    script = Script(monkeypatch, authorization=[{"status": "valid"}])
    assert await script.order() == b"the chain"
    assert script.shown == [] and not script.posted("question")


async def test_a_number_that_the_ca_forgot_is_replaced_by_the_one_that_comes_with_its_answer(monkeypatch):
    script = Script(monkeypatch, newOrder=[problem("badNonce", 400), problem("badNonce", 400), ORDER])
    assert await script.order() == b"the chain"
    assert len({each["nonce"] for each, _ in script.posted("newOrder")}) == 3
    endless = Script(monkeypatch, newOrder=[problem("badNonce", 400)] * 9)
    with pytest.raises(AuthorityUnavailable, match="badNonce"):
        await endless.order()


WRONG = {"type": "urn:ietf:params:acme:error:connection", "detail": "no route to host\x1b[2J"}


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (
            {"newOrder": [problem("rejectedIdentifier", detail="policy forbids it")]},
            "rejectedIdentifier: policy forbids",
        ),
        ({"newAccount": [problem("externalAccountRequired", detail="no")]}, "externalAccountRequired: no"),
        (
            {
                "authorization": [
                    PENDING,
                    {**PENDING, "status": "invalid", "challenges": [{**QUESTION, "error": WRONG}]},
                ]
            },
            r"shop.example.org: connection: no route to host \[2J",
        ),
        (
            {"authorization": [{**PENDING, "challenges": [{"type": "dns-01"}]}]},
            "not ask for shop.example.org by http-01",
        ),
        ({"authorization": [{**PENDING, "challenges": [{**QUESTION, "token": "../x"}]}]}, "by http-01"),
        ({"order": [{"status": "invalid", "error": {"detail": "too late"}}]}, "too late"),
    ],
)
async def test_a_ca_that_says_no_is_quoted_and_nothing_is_answered_any_more(monkeypatch, answers, words):
    script = Script(monkeypatch, **answers)
    with pytest.raises(OrderRefused, match=words):
        await script.order()
    assert script.shown[-1:] in ([], [{}])


@pytest.mark.parametrize(
    "answers",
    [
        {"dir": [[]]},
        {"dir": [{**DIRECTORY, "newNonce": "http://ca.example/newNonce", "newAccount": "http://ca.example/a"}]},
        {"dir": [_Heard(302, {"Location": "https://else.example"}, b"")]},
        {"newOrder": [{}]},
        {"newOrder": [{**ORDER, "authorizations": [7]}]},
        {"newOrder": [{**ORDER, "finalize": "file:///etc/passwd"}]},
        {"newOrder": [_Heard(502, {}, b"<html>")]},
        {"newOrder": [problem("serverInternal", 500)]},
        {"order": [{"status": "valid"}]},
    ],
    ids=str,
)
async def test_a_ca_that_answers_nonsense_or_is_in_trouble_has_not_answered(monkeypatch, answers):
    with pytest.raises(AuthorityUnavailable):
        await Script(monkeypatch, **answers).order()


async def test_a_ca_that_was_asked_too_often_says_when_to_come_back(monkeypatch):
    script = Script(monkeypatch, newOrder=[problem("rateLimited", 429, "7200", detail="too many")])
    with pytest.raises(OrderRefused, match="rateLimited: too many"):
        await script.order()
    assert script.ordering.wish == timedelta(hours=2)
    busy = Script(monkeypatch, newOrder=[_Heard(503, {"Retry-After": "60"}, b"")])
    with pytest.raises(AuthorityUnavailable, match="answers 503"):
        await busy.order()
    assert busy.ordering.wish == timedelta(minutes=1)


async def test_roots_that_cannot_be_read_are_named():
    ca = AcmeCa(f"{CA}/dir", KEY, "/nowhere/roots.pem")
    with pytest.raises(AuthorityUnavailable, match="the roots in /nowhere/roots.pem cannot be read"):
        await ca.log_in("")
