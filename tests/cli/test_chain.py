"""The chain as a user types it."""

import re

from conftest import Chain, Cli


def test_chain_is_linked_by_parent_run_ids(chain: Chain, cli: Cli) -> None:
    answer = cli("lineage", chain.weight_rewind, "--tracking-uri", chain.uri)
    assert answer.code == 0
    assert re.findall("[0-9a-f]{32}", answer.out) == [chain.dense, chain.prune, chain.weight_rewind]
