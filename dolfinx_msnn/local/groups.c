/* Copyright (C) 2026 The dolfinx_msnn developers
 * SPDX-License-Identifier: MIT
 *
 * Element matrices, and their sums over groups of cells. Cells are ordered by group; dofs are dof blocks, matrices
 * have blocks of bs x bs (block CSR, one block after the other). All offsets are numbers of blocks.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef void (*tabulate_t)(double *, const double *, const double *, const double *, const int *, const uint8_t *,
                           void *);

/* out += element matrices of a form (zeroed first), in the layout of FFCx, for `num` cells.
 * Each integral has a kernel and entities: rows starts[cell] to starts[cell + 1] of its facets and packed
 * coefficients; starts is NULL where row `cell` is the cell itself, facets is NULL for integrals over cells. */
void tabulate(int64_t num, const int32_t *cells, int64_t size, int64_t num_nodes, const int32_t *nodes, const double *x,
              int64_t num_integrals, const int64_t *kernels, const int64_t *starts, const int64_t *facets,
              const int64_t *coefficients, const int64_t *widths, const double *constants, const uint8_t *permutations,
              int64_t num_facets, double *coordinates, double *out)
{
    memset(out, 0, (size_t)(num * size) * sizeof(double));
    for (int64_t p = 0; p < num; ++p) {
        const int64_t cell = cells[p];
        for (int64_t k = 0; k < num_nodes; ++k)
            memcpy(coordinates + 3 * k, x + 3 * (int64_t)nodes[cell * num_nodes + k], 3 * sizeof(double));
        for (int64_t q = 0; q < num_integrals; ++q) {
            const int64_t *start = (const int64_t *)(intptr_t)starts[q];
            const int32_t *facet = (const int32_t *)(intptr_t)facets[q];
            const double *w = (const double *)(intptr_t)coefficients[q];
            for (int64_t e = start ? start[cell] : cell; e < (start ? start[cell + 1] : cell + 1); ++e)
                ((tabulate_t)(intptr_t)kernels[q])(
                    out + p * size, w + e * widths[q], constants, coordinates, facet ? facet + e : NULL,
                    facet && permutations ? permutations + cell * num_facets + facet[e] : NULL, NULL);
        }
    }
}

/* For each of `num` matrices K of n x n: the sum of |K|, the largest entry of |K - K'|, the least diagonal entry. */
void measure_elements(int64_t num, int64_t n, const double *elements, double *size, double *asymmetry, double *least)
{
    for (int64_t p = 0; p < num; ++p, elements += n * n) {
        double sum = 0, worst = 0, low = elements[0];
        for (int64_t i = 0; i < n; ++i) {
            low = elements[i * n + i] < low ? elements[i * n + i] : low;
            for (int64_t j = 0; j < n; ++j) {
                const double gap = fabs(elements[i * n + j] - elements[j * n + i]);
                sum += fabs(elements[i * n + j]);
                worst = gap > worst ? gap : worst;
            }
        }
        size[p] = sum;
        asymmetry[p] = worst;
        least[p] = low;
    }
}

static int compare(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static void sort(int32_t *first, int64_t num)
{
    if (num > 48) {
        qsort(first, (size_t)num, sizeof(int32_t), compare);
        return;
    }
    for (int64_t i = 1; i < num; ++i) {
        const int32_t value = first[i];
        int64_t j = i;
        for (; j > 0 && first[j - 1] > value; --j)
            first[j] = first[j - 1];
        first[j] = value;
    }
}

/* Distinct dofs of each group, ascending, and of how many of its cells each is one; returns how many in all.
 * `lookup` has an entry for each dof, all -1, and is left so. */
int64_t group_dofs(int64_t num_groups, int64_t width, const int64_t *cell_start, const int32_t *cells,
                   const int32_t *cell_dofs, int32_t *lookup, int64_t *dof_start, int32_t *dofs, int32_t *counts)
{
    int64_t total = 0;
    dof_start[0] = 0;
    for (int64_t g = 0; g < num_groups; ++g) {
        const int64_t first = total;
        for (int64_t p = cell_start[g]; p < cell_start[g + 1]; ++p)
            for (int64_t i = 0; i < width; ++i) {
                const int32_t dof = cell_dofs[cells[p] * width + i];
                if (lookup[dof] < 0) {
                    lookup[dof] = 0;
                    dofs[total++] = dof;
                }
                ++lookup[dof];
            }
        sort(dofs + first, total - first);
        for (int64_t k = first; k < total; ++k) {
            counts[k] = lookup[dofs[k]];
            lookup[dofs[k]] = -1;
        }
        dof_start[g + 1] = total;
    }
    return total;
}

/* Rows of the matrix of each group: row k (a dof of a group) has entries row_start[k] to row_start[k + 1], in the
 * columns `cols` (numbers in the group), ascending. With cols NULL only row_start is filled, with it only cols.
 * `incident` and `mark` have room for width times the cells, and twice the dofs, of the largest group. */
void group_rows(int64_t num_groups, int64_t width, const int64_t *cell_start, const int32_t *cells,
                const int32_t *cell_dofs, const int64_t *dof_start, const int32_t *dofs, const int32_t *counts,
                int32_t *lookup, int32_t *incident, int32_t *mark, int64_t *row_start, int32_t *cols)
{
    int64_t at = 0;
    for (int64_t g = 0; g < num_groups; ++g) {
        const int64_t first = dof_start[g], n = dof_start[g + 1] - first;
        int32_t *end = mark + n;
        for (int64_t k = 0, sum = 0; k < n; ++k) {
            lookup[dofs[first + k]] = (int32_t)k;
            mark[k] = -1;
            end[k] = (int32_t)sum;
            sum += counts[first + k];
        }
        for (int64_t p = cell_start[g]; p < cell_start[g + 1]; ++p)
            for (int64_t i = 0; i < width; ++i)
                incident[end[lookup[cell_dofs[cells[p] * width + i]]]++] = cells[p];
        for (int64_t k = 0; k < n; ++k) {
            int64_t num = 0;
            if (!cols)
                row_start[first + k] = at;
            for (int32_t c = end[k] - counts[first + k]; c < end[k]; ++c)
                for (int64_t j = 0; j < width; ++j) {
                    const int32_t col = lookup[cell_dofs[(int64_t)incident[c] * width + j]];
                    if (mark[col] != k) {
                        mark[col] = (int32_t)k;
                        if (cols)
                            cols[at + num] = col;
                        ++num;
                    }
                }
            if (cols)
                sort(cols + at, num);
            at += num;
        }
        for (int64_t k = 0; k < n; ++k)
            lookup[dofs[first + k]] = -1;
    }
    if (!cols)
        row_start[dof_start[num_groups]] = at;
}

/* Add element matrices of the cells in places `first` to `last` of the order to the matrices of their groups, of which
 * `group` is the first; `values` begins with block number `base`. `work` has room for 2 x width. */
void add_elements(int64_t first, int64_t last, int64_t group, int64_t width, int64_t bs, const int64_t *cell_start,
                  const int32_t *cells, const int32_t *cell_dofs, const int64_t *dof_start, const int32_t *dofs,
                  int32_t *lookup, int32_t *work, const int64_t *row_start, const int32_t *cols, int64_t base,
                  const double *elements, double *values)
{
    int32_t *local = work, *order = work + width;
    for (int64_t p = first; p < last; ++group) {
        const int64_t stop = cell_start[group + 1] < last ? cell_start[group + 1] : last;
        const int used = p < stop;
        for (int64_t k = dof_start[group]; used && k < dof_start[group + 1]; ++k)
            lookup[dofs[k]] = (int32_t)(k - dof_start[group]);
        for (; p < stop; ++p, elements += width * width * bs * bs) {
            for (int64_t i = 0; i < width; ++i) {
                int64_t j = i;
                local[i] = lookup[cell_dofs[(int64_t)cells[p] * width + i]];
                for (; j > 0 && local[order[j - 1]] > local[i]; --j)
                    order[j] = order[j - 1];
                order[j] = (int32_t)i;
            }
            for (int64_t i = 0; i < width; ++i) {
                /* Both the columns of a row and the dofs, taken in this order, ascend. */
                int64_t k = row_start[dof_start[group] + local[i]];
                for (int64_t q = 0; q < width; ++q) {
                    const int64_t j = order[q];
                    while (cols[k] != local[j])
                        ++k;
                    double *into = values + (k - base) * bs * bs;
                    for (int64_t a = 0; a < bs; ++a)
                        for (int64_t b = 0; b < bs; ++b)
                            into[a * bs + b] += elements[(i * bs + a) * width * bs + j * bs + b];
                }
            }
        }
        for (int64_t k = dof_start[group]; used && k < dof_start[group + 1]; ++k)
            lookup[dofs[k]] = -1;
    }
}

static int64_t find(const int32_t *cols, int64_t first, int64_t last, int32_t col)
{
    while (last - first > 1) {
        const int64_t middle = (first + last) / 2;
        if (cols[middle] <= col)
            first = middle;
        else
            last = middle;
    }
    return first;
}

/* The pattern of the sum of some groups on n dofs, and where their entries go in it. `map` has the number of each dof
 * of each group, `rows` the row_start of each; columns are ascending. `cols` has room for all entries of the groups,
 * `work` for 2 n + num_rows. Returns the number of blocks. */
int64_t join(int64_t num_groups, int64_t n, const int64_t *dof_start, const int64_t *dof_at, const int64_t *entry_at,
             const int32_t *map, const int64_t *row_start, const int32_t *cols_of, int64_t *work, int32_t *indptr,
             int32_t *cols, int32_t *table)
{
    int64_t *mark = work, *end = work + n, *incident = work + 2 * n;
    memset(end, 0, (size_t)n * sizeof(int64_t));
    int64_t num_rows = dof_start[num_groups];
    for (int64_t k = 0; k < num_rows; ++k)
        ++end[map[k]];
    for (int64_t r = 0, sum = 0; r < n; ++r) {
        const int64_t count = end[r];
        mark[r] = -1;
        end[r] = sum;
        sum += count;
    }
    /* Row k of the groups, with its group, as one number. */
    for (int64_t g = 0; g < num_groups; ++g)
        for (int64_t k = dof_start[g]; k < dof_start[g + 1]; ++k)
            incident[end[map[k]]++] = k * num_groups + g;
    int64_t at = 0;
    for (int64_t r = 0; r < n; ++r) {
        const int64_t begin = r ? end[r - 1] : 0, start = at;
        indptr[r] = (int32_t)at;
        for (int64_t c = begin; c < end[r]; ++c) {
            const int64_t g = incident[c] % num_groups, k = incident[c] / num_groups;
            const int64_t row = dof_at[g] + k - dof_start[g];
            for (int64_t e = row_start[row]; e < row_start[row + 1]; ++e) {
                const int32_t col = map[dof_start[g] + cols_of[e]];
                if (mark[col] < start) {
                    mark[col] = start;
                    cols[at++] = col;
                }
            }
        }
        sort(cols + start, at - start);
        for (int64_t c = begin; c < end[r]; ++c) {
            const int64_t g = incident[c] % num_groups, k = incident[c] / num_groups;
            const int64_t row = dof_at[g] + k - dof_start[g];
            for (int64_t e = row_start[row]; e < row_start[row + 1]; ++e)
                table[entry_at[g] + e - row_start[dof_at[g]]] =
                    (int32_t)find(cols, start, at, map[dof_start[g] + cols_of[e]]);
        }
    }
    indptr[n] = (int32_t)at;
    return at;
}

/* Matrices of `stack` neighbourhoods of one shape, of `entries` entries each, from 0: out[table] += blocks of some
 * groups, of `num` runs of counts[g] blocks that begin at block starts[g] of `values`. */
void gather(int64_t stack, int64_t num, const int64_t *starts, const int64_t *counts, const int32_t *table,
            int64_t size, const double *values, int64_t entries, double *out)
{
    for (int64_t i = 0; i < stack; ++i, out += entries) {
        const int32_t *to = table;
        for (int64_t g = 0; g < num; ++g) {
            const double *from = values + *starts++ * size;
            if (size == 1)
                for (int64_t k = 0; k < counts[g]; ++k)
                    out[to[k]] += from[k];
            else
                for (int64_t k = 0; k < counts[g]; ++k)
                    for (int64_t b = 0; b < size; ++b)
                        out[to[k] * size + b] += from[k * size + b];
            to += counts[g];
        }
    }
}

/* From blocks one after the other to rows one after the other, for `stack` matrices. */
void unblock(int64_t stack, int64_t n, int64_t bs, const int32_t *indptr, const double *blocks, double *data)
{
    for (int64_t i = 0; i < stack; ++i, blocks += bs * bs * indptr[n], data += bs * bs * indptr[n])
        for (int64_t r = 0; r < n; ++r) {
            const int64_t num = indptr[r + 1] - indptr[r];
            for (int64_t a = 0; a < bs; ++a)
                for (int64_t k = 0; k < num; ++k)
                    for (int64_t b = 0; b < bs; ++b)
                        data[bs * (bs * indptr[r] + a * num + k) + b] =
                            blocks[((indptr[r] + k) * bs + a) * bs + b];
        }
}
