// The Python module `openm3.kernels._native`. Addresses and sizes come as integers: shapes, dtypes and strides were
// checked by the `op.py` that leads here, and what is passed must stay alive during the call.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <stdexcept>

#include "attention.h"
#include "block_mass.h"
#include "chain.h"
#include "isa.h"
#include "linear.h"
#include "rms_norm.h"
#include "rotate.h"
#include "select_blocks.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using Address = uintptr_t;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

void linear(int weights, Address weight, Address x, Address out, int64_t x_stride, int64_t out_stride, int64_t rows,
            int64_t inputs, int64_t outputs, int output, int num_threads) {
    OPENM3_KERNEL(linear)({static_cast<openm3::Weights>(weights), at<uint8_t>(weight), at<uint16_t>(x), at<void>(out),
                           x_stride, out_stride, rows, inputs, outputs, static_cast<openm3::Output>(output),
                           num_threads});
}

// norm is 0 where the link reads what the one before gave.
void add_link(openm3::Chain& chain, Address norm, float eps, int weights, Address weight, int64_t inputs,
              int64_t outputs, int output) {
    chain.add({at<float>(norm), eps, static_cast<openm3::Weights>(weights), at<uint8_t>(weight), inputs, outputs,
               static_cast<openm3::Output>(output)});
}

void run_chain(const openm3::Chain& chain, Address x, int64_t x_stride, Address stream, Address out, int64_t rows,
               int num_threads) {
    chain.run(at<uint16_t>(x), x_stride, at<float>(stream), at<void>(out), rows, num_threads);
}

// block_ids is 0 for dense attention, lse where nobody asks for it.
void attention(int dtype, Address q, int64_t q_token_stride, int64_t q_head_stride, Address k, Address v,
               int64_t page_stride, int64_t head_stride, int64_t slot_stride, Address out, Address lse, int64_t heads,
               int64_t kv_heads, int64_t page_size, int64_t head_size, float scale, Address query_start,
               Address context_len, Address page_table, int64_t sequences, int64_t table_width, int64_t num_pages,
               Address block_ids, int64_t blocks_per_query, int num_threads) {
    const openm3::AttentionCall call{static_cast<openm3::DType>(dtype), at<void>(q), q_token_stride, q_head_stride,
                                     at<void>(k), at<void>(v), page_stride, head_stride, slot_stride, at<void>(out),
                                     at<float>(lse), heads, kv_heads, page_size, head_size, scale,
                                     at<int32_t>(query_start), at<int32_t>(context_len), at<int32_t>(page_table),
                                     sequences, table_width, num_pages, at<int32_t>(block_ids), blocks_per_query,
                                     num_threads};
    openm3::check_blocks(call);
    block_ids ? OPENM3_KERNEL(sparse_attention)(call) : OPENM3_KERNEL(dense_attention)(call);
}

// block_ids is 0 for all visible blocks.
void block_mass(int dtype, Address q, int64_t q_token_stride, int64_t q_head_stride, Address k, int64_t page_stride,
                int64_t head_stride, int64_t slot_stride, Address mass, int64_t heads, int64_t kv_heads,
                int64_t page_size, int64_t head_size, float scale, Address rows, Address sequences, Address positions,
                int64_t watched, Address page_table, int64_t table_width, Address block_ids, int64_t blocks_per_query,
                int num_threads) {
    const openm3::BlockMassCall call{static_cast<openm3::DType>(dtype), at<void>(q), q_token_stride, q_head_stride,
                                     at<void>(k), page_stride, head_stride, slot_stride, at<float>(mass), heads,
                                     kv_heads, page_size, head_size, scale, at<int64_t>(rows), at<int32_t>(sequences),
                                     at<int32_t>(positions), watched, at<int32_t>(page_table), table_width,
                                     at<int32_t>(block_ids), blocks_per_query, num_threads};
    for (int64_t w = 0; call.block_ids && w < watched; ++w) {
        const int32_t* const ids = call.block_ids + call.rows[w] * kv_heads * blocks_per_query;
        for (int64_t i = 0; i < kv_heads * blocks_per_query; ++i) {
            if (ids[i] > call.positions[w] / page_size) throw std::invalid_argument("block_ids_TRN: a block is not visible");
        }
    }
    OPENM3_KERNEL(block_mass)(call);
}

void rms_norm(int dtype, Address x, Address weight, Address out, int64_t rows, int64_t size, float eps,
              int num_threads) {
    OPENM3_KERNEL(rms_norm)({static_cast<openm3::DType>(dtype), at<float>(x), at<float>(weight), at<void>(out), rows,
                             size, eps, num_threads});
}

// The addresses of scales and of v are 0 where there are none.
void rotate(int dtype, Address heads, int64_t token_stride, Address cos, Address sin, Address q_scale, Address k_scale,
            float eps, bool turns_queries, Address q, Address k, Address v, int64_t page_stride, int64_t head_stride,
            int64_t slot_stride, int64_t num_heads, int64_t kv_heads, int64_t page_size, int64_t head_size,
            int64_t pairs, Address query_start, Address context_len, Address page_table, int64_t sequences,
            int64_t table_width, int num_threads) {
    OPENM3_KERNEL(rotate)({static_cast<openm3::DType>(dtype), at<void>(heads), token_stride, at<float>(cos),
                           at<float>(sin), at<float>(q_scale), at<float>(k_scale), eps, turns_queries, at<void>(q),
                           at<void>(k), at<void>(v), page_stride, head_stride, slot_stride, num_heads, kv_heads,
                           page_size, head_size, pairs, at<int32_t>(query_start), at<int32_t>(context_len),
                           at<int32_t>(page_table), sequences, table_width, num_threads});
}

openm3::QuantisedKeys quantised_at(Address keys, Address centres, Address bounds) {
    return {at<uint8_t>(keys), at<float>(centres), at<openm3::PageBounds>(bounds)};
}

// The addresses of `topk` and of the quantised keys are 0 where there are none.
void select_blocks(int dtype, Address q, int64_t q_token_stride, int64_t q_head_stride, Address k, int64_t page_stride,
                   int64_t head_stride, int64_t slot_stride, Address block_ids, int64_t heads, int64_t key_heads,
                   int64_t groups, int64_t page_size, int64_t head_size, int64_t blocks_per_query, int64_t init_blocks,
                   int64_t local_blocks, Address query_start, Address context_len, Address page_table,
                   Address topk, int64_t sequences, int64_t table_width, Address keys, Address centres, Address bounds,
                   Address counts, int num_threads) {
    OPENM3_KERNEL(select_blocks)({static_cast<openm3::DType>(dtype), at<void>(q), q_token_stride, q_head_stride,
                                  at<void>(k), page_stride, head_stride, slot_stride, at<int32_t>(block_ids), heads,
                                  key_heads, groups, page_size, head_size, blocks_per_query, init_blocks, local_blocks,
                                  at<int32_t>(query_start), at<int32_t>(context_len), at<int32_t>(page_table),
                                  at<int32_t>(topk), sequences, table_width, quantised_at(keys, centres, bounds), at<int64_t>(counts),
                                  num_threads});
}

void quantise_keys(int dtype, Address k, int64_t page_stride, int64_t head_stride, int64_t slot_stride,
                   int64_t key_heads, int64_t page_size, int64_t head_size, Address pages, int64_t num_pages,
                   Address keys, Address centres, Address bounds, int num_threads) {
    OPENM3_KERNEL(quantise_keys)({static_cast<openm3::DType>(dtype), at<void>(k), page_stride, head_stride, slot_stride,
                                  key_heads, page_size, head_size, at<int64_t>(pages), num_pages,
                                  quantised_at(keys, centres, bounds), num_threads});
}

}  // namespace

NB_MODULE(_native, m) {
    const auto no_gil = nb::call_guard<nb::gil_scoped_release>();
    m.def("isa", [] { return openm3::isa_name(openm3::current_isa()); });
    m.def("use_isa", &openm3::use_isa, "name"_a);
    m.def("linear", &linear, no_gil);
    nb::class_<openm3::Chain>(m, "Chain").def(nb::init<>()).def("add", &add_link).def("run", &run_chain, no_gil);
    m.def("attention", &attention, no_gil);
    m.def("block_mass", &block_mass, no_gil);
    m.def("rms_norm", &rms_norm, no_gil);
    m.def("rotate", &rotate, no_gil);
    m.def("select_blocks", &select_blocks, no_gil);
    m.def("quantise_keys", &quantise_keys, no_gil);
    m.attr("PANEL") = openm3::kPanel;
}
