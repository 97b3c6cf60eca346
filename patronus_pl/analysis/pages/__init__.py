"""Pictures, and the HTML pages that hold them: the only place with matplotlib."""
