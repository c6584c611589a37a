"""What the tests of the rules share: the tool that asks the core, corpora, generated patterns."""
