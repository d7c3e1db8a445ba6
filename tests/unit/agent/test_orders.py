"""Certificates by ACME: one order at a time, the last good one kept, and a CA that said no is left alone, restart or not."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.agent.orders import Orders
from meshagent.ca import acme
from meshagent.errors import AuthorityUnavailable, OrderRefused
from meshagent.model.certificate import Acme

NOW = datetime(2026, 11, 21, tzinfo=UTC)
CA = ec.generate_private_key(ec.SECP256R1())
SHOP = Acme(directory="https://ca.example/dir", hosts=("shop.example.org",), terms_agreed=True)
PAY = SHOP.model_copy(update={"hosts": ("pay.example.org",)})
PLACE = SHOP.place


class FakeCa:
    """Stands for the CA. `answers`: what it does, one after the other; then it certifies."""

    def __init__(self):
        self.now, self.answers, self.asked, self.accounts = NOW, [], [], set()

    def __call__(self, asked, account, roots, show):
        self.asked.append(asked.hosts)
        self.accounts.add(account.private_numbers().private_value)
        return _Order(self, asked)

    def certify(self, csr_pem, names):
        csr = x509.load_pem_x509_csr(csr_pem)
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA")])
        number = x509.random_serial_number()
        made = x509.CertificateBuilder(issuer, csr.subject, csr.public_key(), number, self.now, self.now + DAYS)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=True)
        return made.sign(CA, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class _Order:
    def __init__(self, ca, asked):
        self.ca, self.asked, self.wish = ca, asked, timedelta()

    async def obtain(self, csr_pem):
        answer = self.ca.answers.pop(0) if self.ca.answers else None
        if isinstance(answer, timedelta):
            self.wish, answer = answer, OrderRefused("rateLimited")
        if isinstance(answer, Exception):
            raise answer
        return self.ca.certify(csr_pem, answer or self.asked.hosts)


DAYS = timedelta(days=90)


@pytest.fixture
def ca(monkeypatch):
    made = FakeCa()
    monkeypatch.setattr(acme, "Ordering", made)
    return made


@pytest.fixture
def changes():
    return []


@pytest.fixture
def opened(ca, changes, tmp_path):
    """Opens the orders of this host, as each agent does that starts."""

    async def show(_):
        return None

    def make():
        return Orders(tmp_path / "acme", "/roots.pem", lambda: ca.now, lambda: changes.append(1), show)

    return make


async def test_it_is_ordered_once_shown_and_kept_for_a_restart(ca, opened, changes, tmp_path):
    orders = opened()
    orders.want([SHOP])
    assert "there is no certificate yet" in orders.problems[PLACE] and not changes
    await orders.step()
    await orders.step()
    assert (ca.asked, orders.problems, len(changes)) == ([SHOP.hosts], {}, 1)
    again = opened()
    again.want([SHOP])
    assert again.pairs == orders.pairs and again.pairs.keys() == {PLACE} and len(changes) == 2
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "acme").iterdir()} == {0o600}


async def test_it_is_renewed_when_two_thirds_of_its_life_are_over_with_a_new_key_and_the_same_account(ca, opened):
    orders = opened()
    orders.want([SHOP])
    await orders.step()
    first = orders.pairs[PLACE]
    ca.now = NOW + DAYS * 0.59
    await orders.step()
    assert orders.pairs[PLACE] == first
    ca.now = NOW + DAYS * 0.68
    await orders.step()
    assert orders.pairs[PLACE].key_pem != first.key_pem
    assert len(ca.asked) == 2 and len(ca.accounts) == 1


async def test_a_refusal_keeps_the_last_good_one_and_is_not_tried_again_soon_not_even_by_a_new_agent(ca, opened):
    orders = opened()
    orders.want([SHOP])
    await orders.step()
    first = orders.pairs[PLACE]
    ca.now, ca.answers = NOW + DAYS * 0.68, [OrderRefused("unauthorized: no such host")]
    until = await orders.step()
    assert orders.pairs[PLACE] == first
    assert orders.problems[PLACE] == "unauthorized: no such host: the last good certificate stays in use"
    assert until <= ca.now + timedelta(seconds=60) and len(ca.asked) == 2
    again = opened()
    again.want([SHOP])
    ca.now += timedelta(seconds=59)
    await again.step()
    assert len(ca.asked) == 2 and "no such host" in again.problems[PLACE]
    ca.now += timedelta(days=1)
    await again.step()
    assert len(ca.asked) == 3 and again.problems == {}


async def test_another_order_is_made_at_once_and_the_last_one_is_shown_until_it_is_there(ca, opened):
    orders = opened()
    orders.want([SHOP])
    await orders.step()
    first = orders.pairs[PLACE]
    more = SHOP.model_copy(update={"hosts": (*SHOP.hosts, "www.example.org")})
    orders.want([more])
    assert orders.pairs[PLACE] == first
    ca.answers = [AuthorityUnavailable("gone"), SHOP.hosts]
    await orders.step()
    assert orders.pairs[PLACE] == first and "gone" in orders.problems[PLACE]
    ca.now += timedelta(minutes=1)
    await orders.step()
    assert "it is not for www.example.org" in orders.problems[PLACE]
    ca.now += timedelta(days=1)
    await orders.step()
    assert orders.pairs[PLACE] != first and orders.problems == {}


async def test_what_the_ca_asks_for_is_kept_to(ca, opened):
    orders = opened()
    orders.want([SHOP])
    ca.answers = [timedelta(hours=5)]
    await orders.step()
    ca.now += timedelta(hours=4, minutes=59)
    await orders.step()
    assert len(ca.asked) == 1 and orders.failures[PLACE] == 1
    ca.now += timedelta(minutes=2)
    await orders.step()
    assert len(ca.asked) == 2 and orders.pairs


async def test_one_that_is_not_wanted_any_more_is_not_shown_and_what_failed_for_one_holds_up_no_other(ca, opened):
    orders = opened()
    ca.answers = [OrderRefused("no")]
    orders.want([PAY, SHOP])
    await orders.step()
    assert orders.pairs.keys() == {PLACE} and orders.problems.keys() == {PAY.place}
    orders.want([PAY])
    assert orders.pairs == {} and orders.problems.keys() == {PAY.place}


async def test_of_two_orders_with_the_same_first_name_the_first_counts_and_that_is_told(ca, opened):
    orders = opened()
    other = SHOP.model_copy(update={"email": "ops@example.org"})
    orders.want([SHOP, other])
    await orders.step()
    assert ca.asked == [SHOP.hosts]
    (problem,) = orders.problems.values()
    assert "two gateways here order it in different ways" in problem
    orders.want([SHOP, SHOP])
    assert orders.problems == {} and orders.pairs


async def test_one_that_ended_is_shown_still_and_told_of(ca, opened):
    orders = opened()
    orders.want([SHOP])
    await orders.step()
    ca.now, ca.answers = NOW + DAYS * 2, [AuthorityUnavailable("gone")]
    await orders.step()
    assert "ended at" in orders.problems[PLACE] and "gone" in orders.problems[PLACE] and orders.pairs
    assert orders.rows()[PLACE]["overdue"]


async def test_a_damaged_file_is_a_reason_to_order_anew(ca, opened, tmp_path):
    orders = opened()
    orders.want([SHOP])
    await orders.step()
    for name in ("shop.example.org.pem", "shop.example.org.json"):
        (tmp_path / "acme" / name).write_bytes(b"{")
    again = opened()
    again.want([SHOP])
    assert again.pairs == {}
    await again.step()
    assert again.pairs and len(ca.asked) == 2
