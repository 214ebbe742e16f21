"""Whether two questions may have one cached answer: what each asks for, and the words by which near ones differ."""
