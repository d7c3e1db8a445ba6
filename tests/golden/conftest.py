"""`pytest --update-golden` writes what is expected anew; a reviewer reads the difference."""


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write view.yaml and envoy.yaml anew")
