"""Writes tests for a function. The server runs them, leaves out what fails, and says what the rest notices."""

from minimax import MiniMaxM3

CODE_TO_TEST = '''
def calculate_discount(price: float, discount_percent: float, is_loyal_customer: bool = False) -> float:
    """Calculate final price after discount."""
    if price < 0:
        raise ValueError("Price cannot be negative")
    if discount_percent < 0 or discount_percent > 100:
        raise ValueError("Discount must be between 0 and 100")
    discount = price * (discount_percent / 100)
    final_price = price - discount
    if is_loyal_customer:
        final_price *= 0.95  # Additional 5% off
    return round(final_price, 2)
'''

tests = MiniMaxM3().generate_tests(
    code=CODE_TO_TEST,
    framework="pytest",
    include_edge_cases=True,
    include_mocking=True,
    coverage_target=90,
    max_tokens=96,
)
print(tests.code or tests.content)
print(f"verdict: {tests.verdict}; {len(tests.receipts)} receipts")
print(*tests.notes, sep="\n")
