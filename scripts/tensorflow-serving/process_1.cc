// As process 1 of a container, the server ends on SIGTERM and SIGINT. It handles no signals, and Linux ignores for process 1
// what has no handler. As any other process it ends by the signal itself, so nothing changes there.
#include <csignal>
#include <unistd.h>

namespace {

void Exit(int signal) { _exit(128 + signal); }

__attribute__((constructor)) void HandleSignalsAsProcess1() {
  if (getpid() != 1) return;
  std::signal(SIGTERM, Exit);
  std::signal(SIGINT, Exit);
}

}  // namespace
