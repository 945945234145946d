from tests.cuda.double import pytest_configure, pytest_pyfunc_call, pytest_runtest_setup

__all__ = ["pytest_configure", "pytest_pyfunc_call", "pytest_runtest_setup"]
