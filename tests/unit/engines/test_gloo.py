"""The network interface of a fit's workers."""

import psutil

from backstay.engines.gloo import interface_of


def test_the_interface_is_the_one_with_the_address():
    loopback = interface_of("127.0.0.1")
    assert "127.0.0.1" in {each.address for each in psutil.net_if_addrs()[loopback]}


def test_an_address_of_no_interface_leaves_the_choice_to_gloo():
    assert interface_of("192.0.2.1") is None  # no machine has it
