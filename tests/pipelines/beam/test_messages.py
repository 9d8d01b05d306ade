"""The one line that a user gets of a runner's error."""

import pytest

from pipelines.beam.messages import of_ours, reason_of, without_place

FLINK = """\
org.apache.flink.client.program.ProgramInvocationException: The job failed.
\tat org.apache.flink.client.Deployer.run(Deployer.java:12)
Caused by: org.apache.flink.runtime.JobExecutionException: Job execution failed.
\tat org.apache.flink.runtime.Scheduler.fail(Scheduler.java:99)
\t... 7 more
Caused by: java.lang.IllegalArgumentException: No enum constant LogLevel.CRITICAL
\tat java.base/java.lang.Enum.valueOf(Enum.java:273)
\t... 3 more
"""
QUOTED = """\
java.util.concurrent.ExecutionException: java.lang.RuntimeException: Error from SDK harness
\tat java.base/java.util.concurrent.CompletableFuture.get(CompletableFuture.java:2073)
Caused by: java.lang.RuntimeException: From SDK harness: Traceback (most recent call last):
  File "/opt/sdk_worker.py", line 312, in _execute
    response = task()
ModuleNotFoundError: No module named 'openvino' [while running 'Extract chunks']

\tat org.apache.beam.fn.harness.Client.error(Client.java:180)
"""
PYTHON = """\
Traceback (most recent call last):
  File "worker.py", line 1, in run
    raise ValueError("first")
ValueError: first

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "worker.py", line 3, in run
    raise RuntimeError("second")
RuntimeError: second [while running 'Solve']
]
"""


@pytest.mark.parametrize(
    "text, reason",
    [
        (FLINK, "java.lang.IllegalArgumentException: No enum constant LogLevel.CRITICAL"),
        (PYTHON, "RuntimeError: second"),
        (QUOTED, "ModuleNotFoundError: No module named 'openvino'"),
        ("java.io.IOException: disk\n\tat a.B\n]", "java.io.IOException: disk"),
        ("<Reply of RPC that terminated with:\n\tno words\n>", "no words"),
        ("a plain line", "a plain line"),
        (">\n]\n", "RuntimeError"),
        ("", "RuntimeError"),
    ],
)
def test_the_reason_is_the_line_that_says_something(text, reason):
    assert reason_of(RuntimeError(text)) == reason


def test_a_reply_of_grpc_gives_its_details():
    import grpc

    class Refused(grpc.RpcError):
        def details(self):
            return "job 7 not found"

        def __str__(self):
            return "<_InactiveRpcError of RPC that terminated with:\n\tstatus = NOT_FOUND\n>"

    assert reason_of(Refused()) == "job 7 not found"


def test_a_job_server_that_is_gone_is_named():
    import grpc

    channel = grpc.insecure_channel("localhost:1")
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/a/b")(b"", timeout=10)
    assert reason_of(error.value).startswith("the job server does not answer any more (")
    with pytest.raises(grpc.FutureTimeoutError) as late:
        grpc.channel_ready_future(channel).result(timeout=0.1)
    assert reason_of(late.value) == "nobody answers at --job_endpoint within --job_server_timeout"


def test_a_worker_without_hoarfrost_is_told_what_to_install():
    found = reason_of(RuntimeError("ModuleNotFoundError: No module named 'pipelines'"))
    assert "a worker has no Hoarfrost: install the same version there" in found


def test_our_own_error_is_found_in_what_runners_quote():
    quoted = QUOTED.replace(
        "ModuleNotFoundError: No module named 'openvino'",
        "featurestore.errors.UsageError: worker on n7: --engine openvino: it is not installed",
    )
    ours = of_ours(quoted)
    assert without_place(ours, False) == "worker on n7: --engine openvino: it is not installed"
    assert without_place(ours, True) == "--engine openvino: it is not installed"
