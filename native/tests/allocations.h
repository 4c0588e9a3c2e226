// How often the program has asked for memory by `new`, in all threads.
#pragma once

namespace nestling::testing {

int num_allocations();

}  // namespace nestling::testing
