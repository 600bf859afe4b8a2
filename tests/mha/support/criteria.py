"""Options with which criteria are tried."""

QUICK = {  # what takes many passes takes few
    "shapley": {"max_permutations": 2},
    "gate": {"epochs": 2},
    "hard_concrete": {"epochs": 2},
    "subset": {"epochs": 2},
}
