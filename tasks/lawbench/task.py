"""LawBench's name, description and default settings."""

NAME = "lawbench"
DESCRIPTION = (
    "Name the charge of a Chinese criminal case from the prosecutor's account: one of 191 labels, exact match. "
    "5,332 labelled cases, 15 % of them kept as dev (near-duplicates never straddle a split or a fold); 913 test "
    "cases, whose answers only "
    "the auditor reads. Label-name overlap without any training scores about .45; TF-IDF character bigrams with a "
    "linear SVC .777 on test."
)
POLICY = "text-scorer"
GENERATIONS = 8
