#include "base/confined_process.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace tutti {
namespace {

// Why the program was not started, by its own status; the last pipe carries it.
struct Failure {
  enum Step : int { kNone, kNamespaces, kLimits, kProgram } step = kNone;
  int error = 0;
};

class Pipe {
 public:
  Pipe() {
    if (::pipe2(ends_.data(), O_CLOEXEC) != 0) {
      throw Error(ErrorKind::kSystem,
                  std::string("pipe: ") + std::strerror(errno) + "; close files and try again");
    }
  }
  ~Pipe() {
    close_read();
    close_write();
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  int read_end() const { return ends_[0]; }
  int write_end() const { return ends_[1]; }
  void close_read() { close(0); }
  void close_write() { close(1); }

 private:
  void close(size_t end) {
    if (ends_[end] >= 0) ::close(ends_[end]);
    ends_[end] = -1;
  }
  std::array<int, 2> ends_{-1, -1};
};

// Below runs in the child between fork and exec: only what signal handlers may do as well.
[[noreturn]] void give_up(int report, Failure::Step step) {
  const Failure failure{step, errno};
  // A report that cannot be written shows as a process that ended: nobody else is there to tell.
  if (::write(report, &failure, sizeof failure) != ssize_t(sizeof failure)) ::_exit(126);
  ::_exit(127);
}

bool limit(int resource, rlim_t value) {
  const rlimit r{value, value};
  return ::setrlimit(__rlimit_resource_t(resource), &r) == 0;
}

[[noreturn]] void become(char* const* arguments, char* const* environment, int input, int output,
                         int report, const ProcessLimits& limits, bool root) {
  // The first process of its namespace: when it goes, the kernel kills everything in it.
  if (::setsid() < 0 || ::chdir("/") != 0) give_up(report, Failure::kLimits);
  if (::dup2(input, 0) < 0 || ::dup2(output, 1) < 0 || ::dup2(output, 2) < 0)
    give_up(report, Failure::kLimits);
  const rlim_t seconds = rlim_t(std::ceil(limits.seconds)) + 1;
  if (!limit(RLIMIT_AS, limits.memory) || !limit(RLIMIT_FSIZE, limits.file) ||
      !limit(RLIMIT_CPU, seconds) || !limit(RLIMIT_CORE, 0) || !limit(RLIMIT_NOFILE, 64)) {
    give_up(report, Failure::kLimits);
  }
  constexpr uid_t kNobody = 65534;
  // The kernel counts all processes of a user: nobody's are few.
  if (root && (!limit(RLIMIT_NPROC, 256) || ::setgroups(0, nullptr) != 0 ||
               ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0)) {
    give_up(report, Failure::kLimits);
  }
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) give_up(report, Failure::kLimits);
  // A change of user forgets it.
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) give_up(report, Failure::kLimits);
  // Whatever this program has open stays its own.
  if (::close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) != 0) give_up(report, Failure::kLimits);
  ::execvpe(arguments[0], arguments, environment);
  give_up(report, Failure::kProgram);
}

// The process that holds the namespaces: starts the program as their first process and ends as it
// ends.
[[noreturn]] void hold(char* const* arguments, char* const* environment, int input, int output,
                       int report, const ProcessLimits& limits) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  constexpr int kNamespaces = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC;
  // Root may make them as it is, unless a container took that away; everybody else inside a
  // namespace of users.
  const bool root = ::geteuid() == 0 && ::unshare(kNamespaces) == 0;
  if (!root && ::unshare(CLONE_NEWUSER | kNamespaces) != 0) give_up(report, Failure::kNamespaces);
  const pid_t child = ::fork();
  if (child < 0) give_up(report, Failure::kNamespaces);
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    become(arguments, environment, input, output, report, limits, root);
  }
  ::close(input);
  ::close(output);
  ::close(report);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) {
    limit(RLIMIT_CORE, 0);
    ::signal(WTERMSIG(status), SIG_DFL);
    ::kill(::getpid(), WTERMSIG(status));
  }
  ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128);
}

double since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Feeds input and collects output until the program has closed its output, or a limit is met.
ProcessResult::End exchange(int input, int output, std::string_view text,
                            const ProcessLimits& limits, std::string& collected, Pipe& in) {
  const auto start = std::chrono::steady_clock::now();
  ::fcntl(input, F_SETFL, O_NONBLOCK);
  std::array<char, 1 << 16> buffer;
  for (;;) {
    if (text.empty()) in.close_write();
    const double left = limits.seconds - since(start);
    if (left <= 0) return ProcessResult::kTimeout;
    std::array<pollfd, 2> wanted{{{output, POLLIN, 0}, {text.empty() ? -1 : input, POLLOUT, 0}}};
    if (::poll(wanted.data(), 2, int(std::min(left, 3600.0) * 1000) + 1) < 0 && errno != EINTR)
      break;
    if (wanted[1].revents & (POLLERR | POLLHUP)) {
      text = {};  // it does not read on
    } else if (wanted[1].revents & POLLOUT) {
      const ssize_t n = ::write(input, text.data(), text.size());
      if (n > 0) text.remove_prefix(size_t(n));
      if (n < 0 && errno != EAGAIN && errno != EINTR) text = {};
    }
    if (wanted[0].revents & (POLLIN | POLLHUP)) {
      const ssize_t n = ::read(output, buffer.data(), buffer.size());
      if (n == 0) break;
      if (n < 0 && errno != EINTR) break;
      if (n > 0) collected.append(buffer.data(), size_t(n));
      if (collected.size() > limits.output) {
        collected.resize(limits.output);
        return ProcessResult::kOutput;
      }
    }
  }
  return ProcessResult::kExit;
}

// Waits until `pid` has ended, at most until `limits` allow; false: it still runs.
bool wait_for(pid_t pid, double seconds, int& status) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    const pid_t got = ::waitpid(pid, &status, WNOHANG);
    if (got == pid) return true;
    if (got < 0 && errno != EINTR)
      throw Error(ErrorKind::kSystem, std::string("waitpid: ") + std::strerror(errno));
    if (since(start) > seconds) return false;
    ::usleep(1000);
  }
}

}  // namespace

ProcessResult run_confined(const std::vector<std::string>& arguments, std::string_view input,
                           const ProcessLimits& limits) {
  if (arguments.empty()) throw Error(ErrorKind::kUsage, "run_confined: no program is named");
  std::vector<char*> argv;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  std::string path = "PATH=/usr/local/bin:/usr/bin:/bin";
  std::array<char*, 2> environment{path.data(), nullptr};
  // A program that stops reading must not stop us.
  struct sigaction ignore = {}, before = {};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &ignore, &before);
  Pipe in, out, report;
  const auto start = std::chrono::steady_clock::now();
  const pid_t holder = ::fork();
  if (holder < 0) {
    throw Error(ErrorKind::kSystem, std::string("fork: ") + std::strerror(errno) +
                                        "; end other programs and try again");
  }
  if (holder == 0) {
    ::signal(SIGPIPE, SIG_DFL);
    // It does not exec: our ends would stay open in it.
    in.close_write();
    out.close_read();
    report.close_read();
    hold(argv.data(), environment.data(), in.read_end(), out.write_end(), report.write_end(),
         limits);
  }
  in.close_read();
  out.close_write();
  report.close_write();
  ProcessResult result;
  result.end = exchange(in.write_end(), out.read_end(), input, limits, result.output, in);
  int status = 0;
  if (result.end == ProcessResult::kExit &&
      !wait_for(holder, limits.seconds - since(start), status)) {
    result.end = ProcessResult::kTimeout;  // closed its output and runs on
  }
  if (result.end != ProcessResult::kExit) {
    // Its child is the first process of the namespace and dies with it.
    ::kill(holder, SIGKILL);
    while (::waitpid(holder, &status, 0) < 0 && errno == EINTR) {
    }
  }
  ::sigaction(SIGPIPE, &before, nullptr);
  Failure failure;
  if (::read(report.read_end(), &failure, sizeof failure) == ssize_t(sizeof failure)) {
    const std::string why = std::strerror(failure.error);
    switch (failure.step) {
      case Failure::kNamespaces:
        throw Error(ErrorKind::kUnsupported, "confined process: the kernel gives no namespaces (" +
                                                 why + "); allow user namespaces, or run as root");
      case Failure::kProgram:
        throw Error(ErrorKind::kNotFound,
                    arguments[0] + ": cannot be started (" + why + "); install it");
      default:
        throw Error(ErrorKind::kSystem, "confined process: its limits cannot be set (" + why + ")");
    }
  }
  if (result.end == ProcessResult::kExit) {
    if (WIFSIGNALED(status)) result.end = ProcessResult::kSignal;
    result.code = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
  }
  return result;
}

}  // namespace tutti
