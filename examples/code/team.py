"""A project whose phases are worked on by one agent after the other; with "parallel", side by side."""

from minimax_code import Agent, MiniMaxCode

architect = Agent(name="Architect", role="System Architect", expertise=["system design", "architecture patterns"])
backend_dev = Agent(
    name="Backend Developer", role="Backend Engineer", expertise=["Python", "FastAPI", "PostgreSQL", "Redis"]
)
tester = Agent(name="QA Engineer", role="Quality Assurance", expertise=["testing", "pytest", "CI/CD"])

phases = [
    ("Architecture Design", architect, "Design a scalable e-commerce architecture with microservices"),
    ("Backend Development", backend_dev, "Implement the backend API and database layer"),
    ("Testing & QA", tester, "Create comprehensive test suite and CI/CD pipeline"),
]

with MiniMaxCode(api_key="your-api-key") as code_client:
    project = code_client.create_project(
        name="E-commerce Platform",
        description="Full-stack e-commerce platform with microservices",
        agents=[architect, backend_dev, tester],
        workflow="sequential",
    )
    for name, agent, task in phases:
        print(f"\nExecuting phase: {name}")
        result = project.execute_phase(phase_name=name, agent=agent, task=task)
        print(f"Phase result: {result}")
    print(f"\nThe project is in {project.path}")
