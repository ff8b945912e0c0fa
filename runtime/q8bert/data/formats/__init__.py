"""How rows are written in files of text and of columns: each module reads one of them."""
