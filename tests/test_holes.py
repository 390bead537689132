import pytest

from tests.testset import write_test_set
from tools.errors import UserError
from tools.holes import find_masked_info, read_holes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,../../etc/passwd,0,0,9,9", r"'\.\./\.\./etc/passwd' cannot be an image's name"),
        ("0,a\\b.jpg,0,0,9,9", "cannot be an image's name"),
        ('0,"a,b.jpg",0,0,9,9', "cannot be an image's name"),
        ('0,"a\nb.jpg",0,0,9,9', "cannot be an image's name"),
        ("0,\x1b[31mred.jpg,0,0,9,9", "cannot be an image's name"),
        ("0,,0,0,9,9", "cannot be an image's name"),
        ("0,a.jpg,182,0,9,9", "a 75-pixel hole at 182 leaves the 256-pixel image"),
        ("0,a.jpg,-1,0,9,9", "'-1' is no row or column"),
        ("0,a.jpg,1.5,0,9,9", "'1.5' is no row or column"),
        ("0,a.jpg,0,0,9", "5 columns instead of 6"),
        ("0,a.jpg,0,0,9,9\n1,a.jpg,0,0,9,9", "line 3: 'a.jpg' is there twice"),
        ("", "names no image"),
        ("0,\xff.jpg,0,0,9,9", "is no CSV file in UTF-8"),
    ],
)
def test_a_hostile_or_broken_masked_info_is_refused_by_file_and_line(tmp_path, row, message):
    path = tmp_path / "masked_info.csv"
    encoding = "latin-1" if "\xff" in row else "utf-8"
    path.write_text(f",filename,y1,x1,y2,x2\n{row}\n", encoding=encoding)
    with pytest.raises(UserError, match=message) as failure:
        read_holes(path)
    assert str(path) in str(failure.value)
    assert "\x1b" not in str(failure.value)


def test_the_test_set_is_found_by_its_marker_at_any_depth_and_never_guessed(tmp_path):
    data = write_test_set(tmp_path / "data")
    info = data / "Dataset" / "Testing_Data" / "masked_info.csv"
    assert find_masked_info(data) == info
    assert find_masked_info(info.parent) == info
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no Testing_Data.*tools fetch-data"):
        find_masked_info(tmp_path / "empty")
    write_test_set(tmp_path / "data" / "again")
    with pytest.raises(UserError, match="holds several test sets"):
        find_masked_info(data)
    with pytest.raises(UserError, match="There is no folder"):
        find_masked_info(tmp_path / "none")
