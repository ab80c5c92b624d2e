"""``report.html``: one self-contained page, without scripts and without network."""
