"""Checks for the exercises: each takes the reader's own function or tensor and says in words what is wrong.

A check prints "Correct." or "Not yet: ..." and never stops the notebook. One module for each chapter.
"""

from .ablations import check_changes, check_effects, check_forest, check_influence, check_row_d
from .attention_as_convolution import check_centres, check_dense_weights, check_sharing, check_zero_padding
from .convit import check_forward, check_gpsa_parameters, check_late_token, check_repair, check_token_counts
from .fast_gpsa import check_apply, check_axis_factors, check_is_separable, check_which_factorise
from .from_cnn_to_convit import check_factors, check_leak, check_least_width, check_relax_steps, check_tap_of_head
from .gpsa import check_filter_row, check_gate_gradient, check_mix, check_positional_weights, check_strength
from .imagenet import check_cost, check_group_order
from .images_are_local import check_correlation, check_first_layer, check_nearest_kernel
from .local_without_gpsa import check_interaction, check_mean_target
from .looking_inside import (
    check_is_shortcut,
    check_lowest_gate,
    check_mask_content,
    check_nonlocality,
    check_without_class_token,
)
from .paper_and_code import check_decayed_lambda, check_find_fault, check_fold_scale, check_surplus_heads
from .report_card import check_corrected, check_false_holds, check_seeds_needed
from .sample_efficiency import (
    check_budget,
    check_gap_difference,
    check_plan,
    check_three_gaps,
)
from .self_attention import check_attention_cost, check_cut_patches, check_look_right, check_multi_head
from .training import check_decays, check_learning_rate, check_paired_interval, check_race, check_subset

__all__ = [
    "check_correlation",
    "check_nearest_kernel",
    "check_first_layer",
    "check_cut_patches",
    "check_multi_head",
    "check_attention_cost",
    "check_look_right",
    "check_centres",
    "check_sharing",
    "check_dense_weights",
    "check_zero_padding",
    "check_mix",
    "check_positional_weights",
    "check_strength",
    "check_gate_gradient",
    "check_filter_row",
    "check_gpsa_parameters",
    "check_token_counts",
    "check_late_token",
    "check_repair",
    "check_forward",
    "check_axis_factors",
    "check_apply",
    "check_which_factorise",
    "check_is_separable",
    "check_learning_rate",
    "check_decays",
    "check_subset",
    "check_paired_interval",
    "check_race",
    "check_three_gaps",
    "check_budget",
    "check_gap_difference",
    "check_plan",
    "check_row_d",
    "check_changes",
    "check_effects",
    "check_influence",
    "check_forest",
    "check_nonlocality",
    "check_without_class_token",
    "check_lowest_gate",
    "check_mask_content",
    "check_is_shortcut",
    "check_mean_target",
    "check_interaction",
    "check_tap_of_head",
    "check_factors",
    "check_least_width",
    "check_leak",
    "check_relax_steps",
    "check_group_order",
    "check_cost",
    "check_find_fault",
    "check_decayed_lambda",
    "check_surplus_heads",
    "check_fold_scale",
    "check_false_holds",
    "check_corrected",
    "check_seeds_needed",
]
