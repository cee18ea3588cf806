"""The chain as a user types it."""

from conftest import Chain, Cli


def test_chain_is_linked_by_parent_run_ids(chain: Chain, cli: Cli) -> None:
    answer = cli("lineage", chain.weight_rewind, "--tracking-uri", chain.uri)
    assert answer.code == 0
    assert [line.split()[0] for line in answer.out.splitlines()] == [chain.dense, chain.prune, chain.weight_rewind]
