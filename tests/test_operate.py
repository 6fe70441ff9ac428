"""What the command line says of a running site."""

from __future__ import annotations

from edgeward import operate
from edgeward.messages import Orders, Quarantined, QuarantineList


def test_a_refusal_names_the_item_that_it_is_about():
    one = Quarantined(at_ns=10**18, where="engine", peer="us1", reason="no pixels", what_to_do="look", item_id="ab12")
    other = Quarantined(at_ns=10**18, where="dicom", peer="us1", reason="truncated")

    text = operate.quarantine_text(QuarantineList(entries=[one, other]))

    assert [line.strip() for line in text.splitlines()[1:3]] == ["what to do: look", "item: ab12"]
    assert text.count("item:") == 1


def test_a_search_without_a_result_is_not_told_as_an_empty_order_book():
    assert operate.orders_text(Orders(orders=[]), chosen=True) == "no such orders"
    assert "send HL7 v2 orders" in operate.orders_text(Orders(orders=[]))
