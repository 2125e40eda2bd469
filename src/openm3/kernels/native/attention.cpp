#include "attention.h"

#include <stdexcept>
#include <string>

namespace openm3 {

void check_blocks(const AttentionCall& call) {
    const auto refuse = [](const std::string& what) { throw std::invalid_argument(what); };
    for (int64_t b = 0; b < call.sequences; ++b) {
        const int64_t pages = (call.context_len[b] + call.page_size - 1) / call.page_size;
        if (pages > call.table_width) refuse("page_table: expected " + std::to_string(pages) + " pages a row or more");
        for (int64_t i = 0; i < pages; ++i) {
            const int32_t page = call.page_table[b * call.table_width + i];
            if (page < 0 || page >= call.num_pages) refuse("page_table: no page " + std::to_string(page));
        }
        if (!call.block_ids) continue;
        const int64_t ids = call.kv_heads * call.blocks_per_query;
        for (int64_t token = call.query_start[b]; token < call.query_start[b + 1]; ++token) {
            const int64_t own = (call.context_len[b] - call.query_start[b + 1] + token) / call.page_size;
            for (int64_t i = token * ids; i < (token + 1) * ids; ++i) {
                const int32_t block = call.block_ids[i];
                if (block < -1 || block > own) {
                    refuse("block_ids_TRN: token " + std::to_string(token) + " sees blocks 0 to " +
                           std::to_string(own) + ", got " + std::to_string(block));
                }
            }
        }
    }
}

}  // namespace openm3
