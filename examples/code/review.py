"""A review of a pull request: facts of both sides first, then a model whose findings are tried. Nothing is posted."""

import sys

from minimax_code import MiniMaxCode

review_config = {
    "standards": ["pep8", "security_best_practices", "performance_guidelines", "documentation_requirements"],
    "auto_fix": True,
    "auto_test": True,
    "min_coverage": 80,
}
with MiniMaxCode(api_key="your-api-key") as code_client:
    review_result = code_client.review_pr(repo_url=sys.argv[1], pr_number=int(sys.argv[2]), config=review_config)

print("Code Review Report")
print("=" * 60)
print(f"Files reviewed: {len(review_result.files)}")
print(f"Issues found: {len(review_result.issues)}")
print(f"Auto-fixes applied: {len(review_result.auto_fixes)}")
print(f"Test results: {review_result.test_summary}")
for issue in review_result.issues:
    print(f"\n[{issue.severity}] {issue.file}:{issue.line}")
    print(f"  {issue.message}")
    print(f"  Suggestion: {issue.suggestion}")
