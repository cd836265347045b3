#include "check/human_eval.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace tutti::check {
namespace {

const PythonTask kTask{
    "from typing import List\n\n\ndef total(x: List[int]) -> int:\n    \"\"\" The sum.\n    >>> "
    "total([1, 2])\n    3\n    \"\"\"\n",
    "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n",
    "total"};

TEST(PythonProgram, EndsWhereTheFunctionEnds) {
  const std::string program =
      python_program(kTask, "    return sum(x)\n\ndef other():\n    pass\n");
  EXPECT_EQ(program, kTask.prompt + "    return sum(x)\n\n" + kTask.test + "\ncheck(total)\n");
  // Code within the function stays.
  EXPECT_NE(
      python_program(kTask, "    def inner():\n        pass\n    return 0\nprint(1)").find("inner"),
      std::string::npos);
  EXPECT_EQ(python_program(kTask, "    return 0\nprint(1)").find("print"), std::string::npos);
}

TEST(PythonProgram, TakesTheCodeOutOfAChatsAnswer) {
  const std::string whole = python_program(
      kTask, "Sure!\n```python\ndef total(x: List[int]):\n    return sum(x)\n```\nIt adds ``` up.");
  EXPECT_TRUE(whole.starts_with(
      "from typing import List\n\n\ndef total(x: List[int]):\n    return sum(x)\n"));
  EXPECT_EQ(whole.find("Sure"), std::string::npos);
  const std::string body = python_program(kTask, "```\n    return sum(x)\n```");
  EXPECT_TRUE(body.starts_with(kTask.prompt + "    return sum(x)\n"));
  // Cut off in its code.
  EXPECT_TRUE(python_program(kTask, "```python\n    return sum(x)")
                  .starts_with(kTask.prompt + "    return sum(x)"));
}

PythonVerdict verdict(const std::string& completion, double seconds = 10) {
  return run_python(python_program(kTask, completion), seconds);
}

TEST(RunPython, JudgesPrograms) {
  try {
    ASSERT_TRUE(verdict("    return sum(x)\n").passed) << verdict("    return sum(x)\n").output;
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::kUnsupported) GTEST_SKIP() << e.what();
    throw;
  }
  EXPECT_EQ(verdict("    return sum(x) + 1\n").status, "failed");
  EXPECT_NE(verdict("    return sum(x) + 1\n").output.find("AssertionError"), std::string::npos);
  EXPECT_EQ(verdict("    return (\n").status, "failed");
  // To leave early is not to pass.
  EXPECT_FALSE(verdict("    import sys; sys.exit(0)\n").passed);
  EXPECT_FALSE(verdict("    import os; os._exit(0)\n").passed);
  EXPECT_EQ(verdict("    while True: pass\n", 0.5).status, "timed out");
  EXPECT_EQ(verdict("    while True: print('x' * 100000)\n").status, "too much output");
  EXPECT_EQ(verdict("    import ctypes; ctypes.string_at(0)\n").status, "stopped by a signal");
  EXPECT_FALSE(verdict("    return [0] * (1 << 31)\n").passed);
}

}  // namespace
}  // namespace tutti::check
