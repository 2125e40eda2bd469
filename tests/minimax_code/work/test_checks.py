"""What a task is measured by: commands, code, files, and tests for the runner that a repository uses."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from helpers.agents import bench_of
from minimax_code.contract import Check, Contract
from minimax_code.errors import InputError
from minimax_code.model import ToolCall
from minimax_code.testing import ScriptedModel
from minimax_code.work.acceptance import AcceptanceTest, write_acceptance_test
from minimax_code.work.checks import check_of, complaints, run_check
from minimax_code.workbench import testrun
from minimax_code.workbench.bench import Workbench

from .conftest import DONE, PASS, PLAN, Shop, fix, last, task, write

CART = """
class Cart:
    def add(self, item, /, count=1, *, gift=False):
        return item

    @staticmethod
    def of(*items):
        return Cart()


def total(prices, tax=0):
    return sum(prices) + tax


LIMIT = 7
print("imported")
"""
FILES = {"shop/__init__.py": "from shop.cart import total\n", "shop/cart.py": CART, "src/deep.py": "def f(): ...\n"}
FILES |= {"broken.py": "import nowhere\n", "ends.py": "import os\nos._exit(0)\n", "empty.py": ""}
FILES |= {"sum.go": "package sum\n\nfunc Add(a, b int) int { return a + b }\n", "notes.md": "# How to pay\n"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return bench_of(tmp_path_factory.mktemp("bench"), FILES)


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ("api: shop.cart:total(prices, tax=0)", ""),
        ("api: shop:total(prices)", ""),
        ("api: shop/cart.py:total", ""),
        ("api: src/deep.py:f()", ""),
        ("api: shop.cart:LIMIT", ""),
        ("api: shop.cart:Cart()", ""),
        ("api: shop.cart:Cart.add(item, count=..., *, gift=False)", "item can't be given so"),
        ("api: shop.cart:Cart.add(self, item, /, count=...)", ""),
        ("api: shop.cart:Cart.of(*items)", ""),
        ("api: sum.go:Add(a, b int)", ""),
        ("api: shop.cart:total(prices, tax=1)", "tax has no default 1: its parameters are (prices, tax=0)"),
        ("api: shop.cart:total(tax)", "prices stands where tax should"),
        ("api: shop.cart:total(prices, tax, rate)", "rate is missing"),
        ("api: shop.cart:Cart.add(item, /, count, gift)", "gift can't be given so"),
        ("api: shop.cart:Cart.add()", "item has to be given too"),
        ("api: shop.cart:LIMIT()", "LIMIT can't be called"),
        ("api: shop.cart:totals", "shop.cart has no totals; it has Cart, total, LIMIT"),
        ("api: shops:total", "shops can't be imported: ModuleNotFoundError"),
        ("api: broken:x", "No module named 'nowhere'"),
        ("api: ends:x", "importing ends ends the process"),
        ("api: sum.go:Sub", "sum.go defines no Sub; it defines Add"),
        ("api: sum.go:Add(a int)", "it is func Add(a, b int) int"),
        ("api: gone.go:Add", "gone.go is no file of the folder"),
        ("file: notes.md", ""),
        ("file: notes.md 'How to pay' How", ""),
        ("file: notes.md 'How to  pay'", "notes.md lacks 'How to  pay'"),
        ("file: other.md", "there is no text file other.md"),
        ("exit 3: sh -c 'exit 3'", ""),
        ("exit 0: sh -c 'exit 3'", "ended with 3"),
    ],
)
def test_what_can_be_checked(check: str, told: str, bench: Workbench) -> None:
    read = check_of(check)
    receipt = asyncio.run(run_check(read, bench))
    assert read.is_met_by(receipt) == (not told), receipt
    assert told in "".join(complaints(Contract(checks=(read,)), [receipt], receipt.tree or ""))


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ("api: total", "can't be read; write it as in"),
        ("api: ../cart:total", "can't be read; write it as in"),
        ("api: notes/a.md:total", "no file of a language"),
        ("api: cart:total(prices: list)", "has types; leave them out"),
        ("api: cart:total(1)", "are no parameters"),
        ("file:", "names no file: the path must have 1 to"),
        ("file: /etc/passwd", "names no file: the path must be relative"),
        ("exit 2:", "is empty; name a command"),
        ("pytest 'a", "is no command"),
    ],
)
def test_a_check_that_can_t_be_read_is_a_sentence(check: str, told: str) -> None:
    with pytest.raises(InputError, match=rf"^checks\.0: .*{told}"):
        task(checks=[check])


def test_each_kind_is_a_task_s_check_and_is_run_on_what_is_handed_in(shop: Shop) -> None:
    checks = [
        "api: cart:total(prices, tax=0)",
        "file: notes.md tax",
        "exit 1: python check.py",
    ]
    shop.lay({"check.py": "import cart\n\nassert cart.total([1], 1) != 2\n"})
    right = write("cart.py", "def total(prices, tax=0):\n    return sum(prices) + tax\n")
    result = shop.run(task(checks=checks), [PLAN, fix(), DONE, right, write("notes.md", "tax\n"), DONE, PASS])
    assert result.success, result
    told = last(shop.model.requests[3]).content
    assert "`api: cart:total(prices, tax=0)`: tax is missing: its parameters are (prices)." in told
    assert "`file: notes.md tax`: there is no text file notes.md." in told
    assert [receipt.exit_code for receipt in result.receipts[:3]] == [0, 0, 1]


NODE_TEST = """```javascript
import test from 'node:test';
import assert from 'node:assert/strict';
import { total } from '../cart.mjs';

test('adds up', () => assert.equal(total([1, 2]), 3));
```"""


def test_a_repository_in_javascript_gets_a_test_for_node(shop: Shop) -> None:
    """It fails because there is no `total`; what it is then doesn't pass it is told by the assertion."""
    shop.lay({"cart.mjs": "export const VAT = 19;\n", "util.mjs": "export const a = 1;\n"})
    (shop.folder / "cart.py").unlink()
    (shop.folder / "check.py").unlink()

    def mjs(body: str) -> ToolCall:
        return write("cart.mjs", f"export const total = (prices) => {body};\n")

    passing = NODE_TEST.replace("total", "VAT").replace("(VAT([1, 2]), 3)", "(VAT, 19)")
    idle = NODE_TEST.replace("assert.equal", "console.log").replace("import assert", "import nothing")
    script = [NODE_TEST.replace("test('", "run('"), idle, passing]
    result = shop.run(task(checks=()), [*script, PLAN, mjs("7"), DONE, PASS])
    assert (result.state, result.contract and result.contract.checks) == ("partial", ())
    for i, why in enumerate(("it has no test", "it asserts nothing", "passes already")):
        assert why in result.issues[i]

    shop.place = shop.place / "again"
    result = shop.run(task(checks=()), [NODE_TEST, PLAN, mjs("7"), DONE, mjs("prices[0] + prices[1]"), DONE, PASS])
    assert (result.success, result.tests_passed) == (True, 1), result
    path = "test/total_adds_up_the_prices.test.mjs"
    assert result.contract and result.contract.checks == (Check(command=("node", "--test", path)),)
    assert set(result.contract.frozen) == {path}
    assert "for node --test" in shop.model.requests[0].messages[0].content
    assert "does not provide an export named" not in last(shop.model.requests[4]).content
    assert "7 !== 3" in last(shop.model.requests[4]).content


PYTHON = f'#!/bin/sh\nexec {sys.executable} -S "$@"\n'  # without what is installed
UNIT_TEST = """```python
import unittest
from cart import total, rebate

class TestTotal(unittest.TestCase):
    def test_total(self):
        self.assertEqual(total([1, 2]), 3)
        self.assertEqual(rebate, 1)
```"""


@pytest.mark.parametrize("has_pytest", [True, False])
def test_a_repository_with_unittest_gets_a_test_for_it(tmp_path: Path, has_pytest: bool) -> None:
    """Also one without pytest, where unittest runs it."""
    files = {"cart.py": "def total(prices):\n    return 0\n", "python": PYTHON, "test_old.py": "import unittest\n"}
    bench = bench_of(tmp_path, files)
    (bench.workspace.path / "python").chmod(0o755)
    bench = Workbench(bench.workspace, bench.sandbox, python=sys.executable if has_pytest else "./python")
    model = ScriptedModel([UNIT_TEST])
    test = asyncio.run(write_acceptance_test(task(checks=()), model=model, bench=bench))
    assert isinstance(test, AcceptanceTest), test
    name = "test_total_adds_up_the_prices"
    whole = f"tests/{name}.py::TestTotal::test_total"
    assert test.failed == ((whole,) if has_pytest else (f"setUpModule (tests.{name})",))
    assert test.check.cases == ((whole,) if has_pytest else ())
    assert "for unittest" in model.requests[0].messages[0].content
    (bench.workspace.path / "cart.py").write_text("rebate = 1\n\n\ndef total(prices):\n    return sum(prices)\n")
    assert test.check.is_met_by(asyncio.run(run_check(test.check, bench)))


GO_TEST = """```go
package shop

import "testing"

func TestTotal(t *testing.T) {
	if Total([]int{1, 2}) != 3 {
		t.Fatal("no")
	}
}
```"""
GO = """#!/bin/sh
# What go 1.19 prints, told by a program of its name.
[ "$1" = version ] && exit
if ! grep -q 'func Total' cart/cart.go; then
echo '# x/shop/cart [x/shop/cart.test]'
echo './total_test.go:6:5: undefined: Total'
echo 'FAIL	x/shop/cart [build failed]'
exit 2
elif grep -q 'return 0' cart/cart.go; then
printf '%s\\n' '{"Action":"output","Package":"x/shop/cart","Test":"TestTotal","Output":"    total_test.go:7: no\\n"}'
printf '%s\\n' '{"Action":"fail","Package":"x/shop/cart","Test":"TestTotal","Elapsed":0}'
exit 1
fi
printf '%s\\n' '{"Action":"pass","Package":"x/shop/cart","Test":"TestTotal","Elapsed":0}'
"""


def test_a_repository_in_go_gets_a_test_beside_its_package(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop.folder / "cart.py").unlink()
    (shop.folder / "check.py").unlink()
    shop.lay({"go.mod": "module x/shop\n", "cart/cart.go": "package shop\n", "bin/go": GO})
    (shop.folder / "bin" / "go").chmod(0o755)
    monkeypatch.setattr(testrun, "_ENV", {"PATH": "bin:/usr/bin:/bin"})

    def go(body: str) -> ToolCall:
        return write("cart/cart.go", f"package shop\n\nfunc Total(prices []int) int {{ {body} }}\n")

    result = shop.run(task(checks=()), [GO_TEST, PLAN, go("return 0"), DONE, go("return 3"), DONE, PASS])
    assert result.contract and [check.text for check in result.contract.checks] == ["go test ./cart"], result
    assert set(result.contract.frozen) == {"cart/total_adds_up_the_prices_test.go"}
    assert "undefined: Total" not in last(shop.model.requests[3]).content
    assert "total_test.go:7: no" in last(shop.model.requests[4]).content
    assert result.tests_passed == 1
