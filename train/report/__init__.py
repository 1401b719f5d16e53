"""The paper's tables and figures from finished runs."""
