"""A project whose phases are worked on by one agent after the other; with "parallel", side by side.

It is kept: run it again after a crash, and it goes on where it was.
"""

from minimax_code import Agent, MiniMaxCode

code_client = MiniMaxCode(api_key="your-api-key", mode="autonomous")

architect = Agent(
    name="Architect",
    role="System Architect",
    expertise=["system design", "architecture patterns"],
)
backend_dev = Agent(
    name="Backend Developer",
    role="Backend Engineer",
    expertise=["Python", "FastAPI", "PostgreSQL", "Redis"],
)
frontend_dev = Agent(
    name="Frontend Developer",
    role="Frontend Engineer",
    expertise=["React", "TypeScript", "CSS"],
)
tester = Agent(
    name="QA Engineer",
    role="Quality Assurance",
    expertise=["testing", "pytest", "cypress", "CI/CD"],
)

project = code_client.create_project(
    name="E-commerce Platform",
    description="Full-stack e-commerce platform with microservices",
    agents=[architect, backend_dev, frontend_dev, tester],
    workflow="sequential",  # or "parallel" for concurrent execution
)

phases = [
    {
        "name": "Architecture Design",
        "agent": architect,
        "task": "Design a scalable e-commerce architecture with microservices",
    },
    {
        "name": "Backend Development",
        "agent": backend_dev,
        "task": "Implement the backend API and database layer",
    },
    {
        "name": "Frontend Development",
        "agent": frontend_dev,
        "task": "Build the React frontend with responsive design",
    },
    {
        "name": "Testing & QA",
        "agent": tester,
        "task": "Create comprehensive test suite and CI/CD pipeline",
    },
]

for phase in phases:
    print(f"\nExecuting phase: {phase['name']}")
    result = project.execute_phase(phase_name=phase["name"], agent=phase["agent"], task=phase["task"])
    print(f"Phase result: {result}")

print(f"\nThe project is in {project.path}")
code_client.close()
