#include "base/confined_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"

namespace tutti {
namespace {

class Confined : public testing::Test {
 protected:
  void SetUp() override {
    try {
      run_confined({"true"}, "");
    } catch (const Error& e) {
      if (e.kind() == ErrorKind::kUnsupported) GTEST_SKIP() << e.what();
      throw;
    }
  }
  static ProcessResult shell(const std::string& script, const ProcessLimits& limits = {}) {
    return run_confined({"sh", "-s"}, script, limits);
  }
};

TEST_F(Confined, GivesOutputAndStatus) {
  const ProcessResult done = shell("echo one; echo two >&2; exit 3\n");
  EXPECT_EQ(done.end, ProcessResult::kExit);
  EXPECT_EQ(done.code, 3);
  EXPECT_EQ(done.output, "one\ntwo\n");
  const std::string large(3 << 20, 'x');
  ProcessLimits limits;
  limits.output = 4 << 20;
  EXPECT_EQ(run_confined({"cat"}, large, limits).output, large);
  EXPECT_EQ(run_confined({"true"}, large).code, 0);  // reads nothing
}

TEST_F(Confined, KeepsToItsLimits) {
  ProcessLimits limits;
  limits.seconds = 0.3;
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(shell("echo begun; sleep 60\n", limits).end, ProcessResult::kTimeout);
  EXPECT_EQ(shell("exec >&- 2>&-; sleep 60\n", limits).end, ProcessResult::kTimeout);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  limits = {};
  limits.output = 1000;
  const ProcessResult loud = shell("while :; do echo line; done\n", limits);
  EXPECT_EQ(loud.end, ProcessResult::kOutput);
  EXPECT_EQ(loud.output.size(), 1000u);
  limits = {};
  limits.memory = 64 << 20;
  EXPECT_NE(shell("x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done\n", limits).code, 0);
}

TEST_F(Confined, LeavesNothingRunning) {
  // What it left in the background would hold its output open.
  const auto start = std::chrono::steady_clock::now();
  const ProcessResult done = shell("(setsid sleep 300 &) ; exit 5\n");
  EXPECT_EQ(done.code, 5);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(9));
}

TEST_F(Confined, KillsWhatRunsTooLong) {
  ProcessLimits limits;
  limits.seconds = 0.3;
  const std::string mark = "tutti-survivor-" + std::to_string(::getpid());
  EXPECT_EQ(
      run_confined({"python3", "-I", "-c", "import time\nwhile True: time.sleep(0.1) # " + mark},
                   "", limits)
          .end,
      ProcessResult::kTimeout);
  ::usleep(200'000);
  for (const auto& process : std::filesystem::directory_iterator("/proc")) {
    std::ifstream file(process.path() / "cmdline");
    const std::string command{std::istreambuf_iterator<char>(file), {}};
    EXPECT_EQ(command.find(mark), std::string::npos) << process.path();
  }
}

TEST_F(Confined, InheritsNoDescriptors) {
  const int mine =
      ::open("/dev/null", O_WRONLY);  // as a stream would be open: without close-on-exec
  ASSERT_GE(mine, 3);
  EXPECT_EQ(shell("ls /proc/self/fd | wc -l\n").output, "4\n");  // three, and the one that lists
  ::close(mine);
}

TEST_F(Confined, SeesNoOthersAndReachesNothing) {
  const std::string me = std::to_string(::getpid());
  EXPECT_NE(shell("kill -0 " + me + "\n").code, 0);
  EXPECT_EQ(::kill(::getpid(), 0), 0);
  EXPECT_NE(shell("echo x > /tmp/tutti-confined-" + me + "\n").output, "");
  EXPECT_EQ(shell("env\n").output.find("HOME="), std::string::npos);
  EXPECT_NE(shell("cat /etc/shadow\n").code, 0);
  // Not even the loopback device is up.
  EXPECT_EQ(shell("cat /proc/net/dev | grep -c eth\n").output, "0\n");
}

TEST_F(Confined, SaysWhatCannotBeStarted) {
  try {
    run_confined({"no-such-program"}, "");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kNotFound);
    EXPECT_NE(std::string(e.what()).find("no-such-program"), std::string::npos);
  }
}

TEST_F(Confined, SaysWhichSignal) {
  const ProcessResult done = shell("kill -KILL $$; sleep 1; sh -c 'kill -SEGV $$'\n");
  // The first process of a namespace ignores signals from inside; its child does not.
  EXPECT_EQ(done.end, ProcessResult::kExit);
  EXPECT_EQ(done.code, 128 + SIGSEGV);
}

}  // namespace
}  // namespace tutti
