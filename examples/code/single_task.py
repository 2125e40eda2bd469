"""A task: what it is measured by is a test that fails first, and somebody else looks at the work."""

from minimax_code import MiniMaxCode, Task

with MiniMaxCode(api_key="your-api-key", mode="autonomous") as code_client:
    task = Task(
        description="Create a web scraper for e-commerce product data",
        requirements=[
            "Support for Amazon, eBay, and Walmart",
            "Rate limiting to avoid detection",
            "Store data in PostgreSQL",
            "Include error handling and retry logic",
            "Provide CLI interface",
        ],
        constraints={"max_execution_time": "30 minutes", "budget_limit": "100 API calls"},
    )
    result = code_client.execute(task)

print(f"Task completed: {result.success} ({result.state})")
print(f"Files created: {result.files_created}")
print(f"Tests passed: {result.tests_passed}")
print(f"Execution time: {result.execution_time}")
for issue in result.issues:
    print(f"- {issue}")
