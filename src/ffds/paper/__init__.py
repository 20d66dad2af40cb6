"""The paper's results section, regenerated from measured runs: its tables and its figures."""
