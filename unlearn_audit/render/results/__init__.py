"""Tables of results, one output format a file: for a terminal, a paper, a spreadsheet, a page, a program."""
