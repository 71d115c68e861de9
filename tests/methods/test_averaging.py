"""What is exported is the mean of all states of the encoder."""

from __future__ import annotations

import torch
from cases_comet import ts2vec

from medssl.methods.averaging import WeightAveraged


def test_the_mean_of_all_states_since_the_start() -> None:
    method = ts2vec().make()
    assert isinstance(method, WeightAveraged) and method.exported is method.averaged
    states = [torch.nn.utils.parameters_to_vector(method.encoder.parameters()).detach().clone()]
    for step in range(4):
        with torch.no_grad():
            for parameter in method.encoder.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))
        method.average()
        states.append(torch.nn.utils.parameters_to_vector(method.encoder.parameters()).detach().clone())
        mean = torch.nn.utils.parameters_to_vector(method.exported.parameters())
        torch.testing.assert_close(mean, torch.stack(states).mean(0), atol=1e-6, rtol=1e-5)
    assert not any(p.requires_grad for p in method.exported.parameters())
