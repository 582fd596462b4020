"""Prompts and answers of reports; they lie in `common.text`, since data are written with them as well."""

from common.text.report_answers import Answer, answer_a, answer_b, instruction, parse_answer

__all__ = ["Answer", "answer_a", "answer_b", "instruction", "parse_answer"]
