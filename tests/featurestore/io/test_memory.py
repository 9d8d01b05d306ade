import pytest

from featurestore.io.memory import memory, memory_limit


@pytest.mark.parametrize(
    "files, size",
    [
        ({}, None),
        ({"memory.max": "max"}, None),
        ({"memory.max": "1073741824"}, 1 << 30),
        ({"memory/memory.limit_in_bytes": "4096"}, 4096),
    ],
)
def test_the_memory_of_the_container_is_read(files, size, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert memory_limit(tmp_path) == size


def test_the_machine_has_memory():
    assert memory() > 1 << 28
