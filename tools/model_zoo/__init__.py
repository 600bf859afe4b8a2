"""Every model type of transformers, built tiny, and what pruning does to it: `nox -s families` writes docs/families.md.

README.md in this folder says how it works and how to add a type. From `zoo`, tests take single models:

    specimen = build("llama")
    output = run(specimen)
"""
