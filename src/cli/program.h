// The program as a function, apart from main() so that tests can link the room.
#pragma once

namespace tutti::cli {

// Parses the command line and runs it. Exit codes: 0, 1 for what went wrong at run time, 2 for
// usage.
int program(int argc, char** argv);

}  // namespace tutti::cli
