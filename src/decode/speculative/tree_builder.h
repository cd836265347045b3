// Trees of candidates for methods that see several tokens ahead at once and see again from whatever
// node stands: which candidates, and how many rows that look ahead ("prompts") behind each. How far
// a step can look depends on the prompts behind the node where the step before it ended, its state:
// so there is a tree for each state. Source: sheet 40 (PPD, arXiv 2405.18628), stages 1 to 3.
#pragma once

#include <vector>

namespace tutti::decode::speculative {

// [j][a]: how often candidate a (0: the likeliest) of the row that looks j + 1 tokens further than
// the node itself is the token that comes. Rows may differ in length.
using AcceptanceTable = std::vector<std::vector<double>>;

struct PlannedNode {
  std::vector<int> path;  // the rank of the candidate at each depth; of the root empty
  double reach = 1;       // the chance that it stands, depths taken as independent
  double last = 1;        // that it is the last that stands
  int prompts = 0;
};

// The root, then nodes by falling reach: no node before its parent, every beginning a tree.
using StateTree = std::vector<PlannedNode>;

int prompts_of(const StateTree& tree);
int rows_of(const StateTree& tree);         // nodes and prompts
double expected_of(const StateTree& tree);  // tokens that stand behind the root

// PlannedNode::last of all nodes, from their reach.
void set_last(StateTree& tree);

// Stage 1: the `nodes` candidates of largest reach, at most `depth` deep (the root not counted),
// ranks below `width`. Fewer when there are no more of reach above 0.
StateTree candidate_tree(const AcceptanceTable& acceptance, int depth, int nodes, int width = 10);

// A tree per state, [k] when k prompts are there to look ahead; [0] is a root alone.
using DynamicTree = std::vector<StateTree>;

// Stage 2: `most` prompts behind every node but the root, then one less where it costs least, until
// nodes and prompts without the root's are at most `rows`; `least` stay. value[n] is what n prompts
// are worth: the tokens expected of the tree of state n.
void give_prompts(StateTree& tree, const std::vector<double>& value, int most, int rows,
                  int least = 1);

// Stages 1 and 2 for all states: nodes[k - 1] candidates in state k, every root with all prompts.
DynamicTree build_trees(const AcceptanceTable& acceptance, const std::vector<int>& nodes, int rows,
                        int least = 1);

// What happens where no candidate stands.
enum class NothingStood {
  kRootChain,  // the root's prompts look ahead of the token that came instead: nothing is lost
  kIdleStep,   // one step passes without candidates. The paper's script counts so, and finds fewer
               // tokens than its decoder writes
};

struct SteadyState {
  std::vector<double> occupancy;  // of each state; of kIdleStep those of state 0 are the idle steps
  double tokens = 1;              // per forward
  double rows = 1;                // likewise
};

// Stage 3: of the chain of states that begins with all prompts.
SteadyState steady_state(const DynamicTree& trees, NothingStood then = NothingStood::kRootChain);

// The search of the paper's script: 10 candidates in state 1, in the others as many from
// rows / (m + 1) to rows / 2 as make the most tokens by its own count (kIdleStep).
DynamicTree search_trees(const AcceptanceTable& acceptance, int rows);

}  // namespace tutti::decode::speculative
