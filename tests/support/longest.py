"""The files of tests that run first."""

# The files that take longest, the longest first. Several processes take whole files in this order,
# so that none of them is left with a long file at the end.
LONGEST = (
    "tests/test_benchmarks.py",
    "tests/pipelines/test_recipes_run.py",
    "tests/featurestore/cli/test_interrupts.py",
    "tests/featurestore/io/test_faults.py",
    "tests/pipelines/test_kills.py",
    "tests/pipelines/test_resume.py",
    "tests/pipelines/test_fuzz.py",
    "tests/featurestore/io/test_file_faults.py",
    "tests/classifier/training/test_train.py",
    "tests/featurestore/cli/test_command.py",
    "tests/pipelines/test_views.py",
    "tests/pipelines/test_extract.py",
    "tests/pipelines/test_increment.py",
    "tests/classifier/base/test_bases.py",
    "tests/classifier/reporting/test_report.py",
    "tests/test_examples.py",
    "tests/test_docs.py",
)
