import json

import pytest

from tools import metadata
from tools.errors import UserError


@pytest.fixture
def change(project):
    """Change keys of the project's metadata; None removes one."""

    def run(**changes):
        path = project / "kernel-metadata.json"
        found = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))
        return metadata.load(project)

    return run


def test_the_projects_own_metadata_is_right(project):
    found = metadata.load(project)
    assert (found.slug, found.owner, found.machine_shape) == (
        "pix2pix-inpainting",
        "",
        "NvidiaTeslaT4",
    )
    assert found.is_private
    assert not found.enable_internet


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"enablegpu": True}, "'enablegpu' is no key, did you mean 'enable_gpu'"),
        ({"id_no": 7}, "id_no would win over id"),
        ({"enable_internet": None}, "enable_internet is missing"),
        ({"enable_internet": "false"}, "enable_internet should be true or false"),
        ({"dataset_sources": "a/b"}, "dataset_sources should be a list of strings"),
        ({"title": "Other title"}, "makes the slug 'other-title', but id says"),
        ({"id": "pix"}, "should be a slug of 5 to 50"),
        ({"id": "ada/pix2pix-inpainting/3"}, "should be a slug of 5 to 50"),
        ({"id": "x" * 51, "title": "x" * 51}, "title should have 5 to 50 characters"),
        ({"code_file": "kernel/missing.py"}, "is no file of this project"),
        ({"language": "r"}, "language should be 'python'"),
        ({"kernel_type": "notebook"}, "kernel_type should be 'script'"),
        ({"machine_shape": "NvidiaTeslaP100"}, "NvidiaTeslaP100 is retired; use NvidiaTeslaT4"),
        ({"machine_shape": "TpuV38"}, "is a TPU, and the kernel trains on GPUs"),
        ({"machine_shape": "NvidiaTeslaT5"}, "is no accelerator; there are NvidiaTeslaT4"),
        ({"machine_shape": "cpu"}, "does not go with enable_gpu true"),
        ({"enable_tpu": True}, "enable_tpu should be false"),
        ({"docker_image_pinning_type": "newest"}, "'original' or 'latest'"),
        ({"competition_sources": ["c/titanic"]}, "write 'titanic'"),
        (
            {"dataset_sources": ["https://www.kaggle.com/datasets/ada/cats"]},
            "write 'ada/cats'",
        ),
        ({"kernel_sources": ["code/ada/other"]}, "write 'ada/other'"),
        ({"model_sources": ["ada/model/keras/base"]}, "as in 'owner/model/framework/variation/1'"),
    ],
)
def test_a_mistake_is_named_before_anything_is_sent(change, changes, message):
    with pytest.raises(UserError) as failure:
        change(**changes)
    assert message in str(failure.value)
    assert "kernel-metadata.json" in str(failure.value)


@pytest.mark.parametrize("name", ["../outside.py", "kernel/link.py", "there/outside.py"])
def test_code_outside_the_project_is_refused_though_it_is_there(project, change, name):
    outside = project.parent / "outside.py"
    outside.write_text("print()\n")
    (project / "kernel" / "link.py").symlink_to(outside)
    (project / "there").symlink_to(project.parent)
    with pytest.raises(UserError) as failure:
        change(code_file=name)
    assert f"code_file {name!r} is no file of this project" in str(failure.value)


def test_all_mistakes_are_told_at_once(change):
    with pytest.raises(UserError, match="language should be.*kernel_type should be"):
        change(language="r", kernel_type="notebook")


def test_a_key_that_stands_there_twice_is_an_error(project):
    (project / "kernel-metadata.json").write_text('{"id": "abcde", "id": "fghij"}')
    with pytest.raises(UserError, match="'id' appears twice"):
        metadata.load(project)


def test_accelerators_are_known_in_any_case():
    assert metadata.accelerator("nvidial4") == "NvidiaL4"
    assert metadata.accelerator("CPU") == "cpu"
    with pytest.raises(UserError, match="retired"):
        metadata.accelerator("nvidiateslap100")
